"""How many ModelServers have which condition, for /metrics: counted when somebody asks, so it costs nothing at rest."""

from collections import Counter
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from octavo_operator.store import Store

_LABELS = ("type", "status", "reason")


class Tally(Collector):
    """One number for each condition, its status and reason. Not one for each ModelServer: a thousand of them would be
    ten thousand series, and kube-state-metrics reads those from the objects.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """The numbers as they are now."""
        family = GaugeMetricFamily(
            "octavo_operator_conditions", "ModelServers by condition, its status and reason.", labels=_LABELS
        )
        for labels, number in sorted(self._counted().items()):
            family.add_metric(labels, number)
        yield family

    def _counted(self) -> Counter[tuple[str, ...]]:
        servers = [self._store.server(key) for key in self._store.servers()]
        found = [item for raw in servers if raw for item in raw.get("status", {}).get("conditions", ())]
        return Counter(tuple(str(item.get(label, "")) for label in _LABELS) for item in found)

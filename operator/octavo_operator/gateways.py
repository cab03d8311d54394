"""Looks at HTTPRoutes that no Gateway has taken yet: they are listed, not watched, and Gateways answer in seconds."""

from contextlib import suppress
from typing import Final

from octavo_operator.cluster import Cluster
from octavo_operator.core.errors import ClusterError
from octavo_operator.core.routed import next_look
from octavo_operator.store import Key, Observed, Store

_KIND: Final = "HTTPRoute"
_EARLY: Final = 0.9
"""The part of a pause after which it counts as over: timers are not exact."""


class Gateways:
    """What Gateways say of routes, for the store."""

    def __init__(self, cluster: Cluster, store: Store) -> None:
        self._cluster = cluster
        self._store = store
        self._looked: dict[Key, float] = {}

    async def observe(self, key: Key, now: float) -> Observed:
        """One ModelServer; its HTTPRoute is taken in anew where its status says that there is something to wait for."""
        observed = self._store.observe(key)
        if _KIND not in observed.children or (pause := self.next_look(key, now)) is None:
            self._looked.pop(key, None)
            return observed
        if now - self._looked.get(key, 0.0) < _EARLY * pause:
            return observed
        self._looked[key] = now
        with suppress(ClusterError):  # the next look, or the next list, will tell
            found = await self._cluster.get(_KIND, key.namespace, key.name)
            if found is not None:
                self._store.put({**found, "kind": _KIND})
            else:
                self._store.remove(observed.children[_KIND])
        return self._store.observe(key)

    def next_look(self, key: Key, now: float) -> float | None:
        """Seconds until there should be another look, by the status that the ModelServer has now; None for no look."""
        raw = self._store.server(key)
        return next_look(raw, now) if raw is not None else None

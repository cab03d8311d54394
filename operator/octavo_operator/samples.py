"""Where a ModelServer's samples come from: the operator's own scrapes or Prometheus, as its spec says, never both."""

from collections.abc import Iterable, Mapping
from typing import Protocol

from octavo_operator.core.pace import Pace
from octavo_operator.core.spec_metrics import PROMETHEUS, metrics_source
from octavo_operator.core.window import Trouble, Window
from octavo_operator.store import Key, Store

Windows = dict[Key, dict[str, Window]]
"""By ModelServer and by pod uid."""


class Replica(Protocol):
    """A replica whose samples are wanted, and at which pace."""

    @property
    def key(self) -> Key: ...
    @property
    def uid(self) -> str: ...
    @property
    def pace(self) -> Pace: ...


def keep_windows(before: Windows, replicas: Iterable[Replica]) -> Windows:
    """The windows of these replicas alone: those that there were, and empty ones where one is new or its pace is."""
    kept: Windows = {}
    for replica in replicas:
        window = before.get(replica.key, {}).get(replica.uid)
        same = window is not None and window.pace == replica.pace
        kept.setdefault(replica.key, {})[replica.uid] = window if window and same else Window(pace=replica.pace)
    return kept


class Samples(Protocol):
    """The windows of samples of every ModelServer, by pod uid, and why some have none."""

    def windows(self, key: Key) -> Mapping[str, Window]: ...
    def trouble(self, key: Key) -> Trouble | None: ...
    async def refresh(self, key: Key) -> None: ...


class ChosenSamples:
    """Those of the source that each ModelServer names."""

    def __init__(self, store: Store, *, direct: Samples, prometheus: Samples) -> None:
        self._store = store
        self._direct = direct
        self._prometheus = prometheus

    def windows(self, key: Key) -> Mapping[str, Window]:
        """Of the named source alone."""
        return self._of(key).windows(key)

    def trouble(self, key: Key) -> Trouble | None:
        """Of the named source alone."""
        return self._of(key).trouble(key)

    async def refresh(self, key: Key) -> None:
        """From the named source alone."""
        await self._of(key).refresh(key)

    def _of(self, key: Key) -> Samples:
        source = metrics_source(self._store.server(key) or {}).source
        return self._prometheus if source == PROMETHEUS else self._direct

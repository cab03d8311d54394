"""Full lists: once before the first reconcile, then slowly for ever.

A list repairs what the watch cannot tell (deletions while it was broken), brings every ModelServer before the
reconcile once more, and is the only honest proof that the watch lives: what a list showed must have come through the
watch a little later. An idle cluster is silent, so silence proves nothing.
"""

import asyncio
import logging
from typing import Final

from octavo_operator.cluster import Cluster
from octavo_operator.core import names
from octavo_operator.core.errors import ClusterError, Rejected
from octavo_operator.core.profiles import extended
from octavo_operator.health import Health
from octavo_operator.logs import kv
from octavo_operator.metrics import Metrics
from octavo_operator.store import LAST_VERSION, WATCHED, Raw, Store, version_of
from octavo_operator.workqueue import FIRST_DELAY, LONGEST_DELAY, WorkQueue, jittered

GRACE_SECONDS: Final = 20.0
"""Time that the watch gets to deliver what a list already showed."""

_AT_ONCE: Final = 2
"""Kinds that are listed: the API server works on one while another is read here, and no more are in memory."""

logger = logging.getLogger(__name__)


class Resync:
    """Lists everything watched and compares."""

    def __init__(
        self,
        cluster: Cluster,
        store: Store,
        *,
        queue: WorkQueue,
        health: Health,
        metrics: Metrics,
        namespaces: tuple[str, ...],
        period: float,
        profiles: tuple[str, str] | None = None,
    ) -> None:
        self._cluster = cluster
        self._store = store
        self._queue = queue
        self._health = health
        self._metrics = metrics
        self._namespaces = namespaces
        self._period = period
        self._profiles = profiles
        self._told: set[tuple[str, str]] = set()
        self._refused: set[str] = set()
        self._slots = asyncio.Semaphore(_AT_ONCE)

    async def first(self) -> None:
        """Lists until it succeeds. Before the CRD is installed or the API server answers, there is nothing to do."""
        delay = FIRST_DELAY
        while True:
            try:
                await self._list_all()
            except ClusterError as error:
                logger.warning("first list failed", extra=kv(error=error, retry_in=f"{delay:.1f}s"))
                await asyncio.sleep(jittered(delay))
                delay = min(LONGEST_DELAY, 2 * delay)
            else:
                self._health.synced = True
                return

    async def run(self) -> None:
        """Lists once a period, for ever."""
        while True:
            await asyncio.sleep(jittered(self._period))
            try:
                newest = await self._list_all()
            except ClusterError as error:
                self._metrics.resyncs.labels(result="error").inc()
                logger.warning("list failed", extra=kv(error=error))
                continue
            self._metrics.resyncs.labels(result="ok").inc()
            await asyncio.sleep(min(GRACE_SECONDS, self._period))
            self._health.missed_events = self._missed(newest)

    async def _list_all(self) -> dict[str, int]:
        """Takes everything in; returns the newest resource version of each kind."""
        before = self._store.servers()
        try:
            async with asyncio.TaskGroup() as group:
                listings = {kind: group.create_task(self._list(kind)) for kind in WATCHED}
                for kind in names.OPTIONAL_KINDS:
                    group.create_task(self._list_optional(kind))
                group.create_task(self._read_profiles())
        except* ClusterError as errors:
            raise errors.exceptions[0] from None
        for key in {*before, *self._store.servers()}:
            self._queue.add(key)
        return {kind: listing.result() for kind, listing in listings.items()}

    async def _list(self, kind: str) -> int:
        """Takes in a kind; returns its newest resource version."""
        async with self._slots:
            raws, version = await self._cluster.list_all(kind, self._namespaces)
            self._store.replace(kind, raws, version)
            return max(map(version_of, raws), default=0)

    async def _list_optional(self, kind: str) -> None:
        """Takes in a kind that the cluster may lack, may get later, and may lose."""
        async with self._slots:
            found = await self._find_optional(kind)
        (self._store.served.discard if found is None else self._store.served.add)(kind)
        self._store.replace(kind, *(found or ([], LAST_VERSION)))

    async def _find_optional(self, kind: str) -> tuple[list[Raw], int] | None:
        """What there is of it; None where it is not there, or the operator's rights, older than this version, lack it.

        That must not keep it from all the rest.
        """
        try:
            return await self._cluster.list_all(kind, self._namespaces) if await self._cluster.serves(kind) else None
        except Rejected as error:
            if kind not in self._refused:
                logger.warning("the operator may not list an optional kind", extra=kv(kind=kind, error=error))
            self._refused.add(kind)
            return None

    async def _read_profiles(self) -> None:
        """Takes in the user's accelerator profiles: a ConfigMap that may be missing, by namespace and name."""
        if self._profiles is None:
            return
        found = await self._cluster.get("ConfigMap", *self._profiles)
        profiles = extended((found or {}).get("data") or {})
        broken = set(profiles.broken.items())
        for name, why in broken - self._told:
            logger.warning("accelerator profile is wrong", extra=kv(profile=name, error=why))
        self._told, self._store.profiles = broken, profiles

    def _missed(self, newest: dict[str, int]) -> str | None:
        """Which kind's watch is deaf, or None."""
        for kind, version in newest.items():
            seen = self._store.newest_watched(kind)
            if seen < version:
                return f"the watch of {kind} stopped at {seen}, a list shows {version}"
        return None

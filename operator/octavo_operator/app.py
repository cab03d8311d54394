"""Wires the shells together and runs them until the watch ends."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import Awaitable, Coroutine, Iterator
from typing import Any

from octavo_operator.cluster import Cluster
from octavo_operator.core.lease import Timing
from octavo_operator.departures import Departures
from octavo_operator.doorbell import Doorbell
from octavo_operator.election import Election, Term
from octavo_operator.fence import Fence
from octavo_operator.handlers import Listener, watch
from octavo_operator.health import Health
from octavo_operator.logs import kv
from octavo_operator.metrics import Metrics
from octavo_operator.reader import Reader
from octavo_operator.reconcile import Reconciler
from octavo_operator.recorder import Recorder
from octavo_operator.resync import Resync
from octavo_operator.samples import ChosenSamples
from octavo_operator.scraper import Scraper
from octavo_operator.settings import Settings
from octavo_operator.startups import Startups
from octavo_operator.store import Store, slim
from octavo_operator.tally import Tally
from octavo_operator.web import make_app, serving
from octavo_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """The operator's life: list, then watch, reconcile and scrape until SIGTERM. Raises when a part fails for good."""
    metrics, store, fence = Metrics(), Store(), Fence(Timing(settings.lease_duration))
    metrics.registry.register(Tally(store))
    health = Health(asyncio.get_running_loop().time)
    queue = WorkQueue(metrics, health)
    async with (
        Cluster(settings.kubeconfig, metrics, fence) as cluster,
        serving(make_app(metrics, health), settings.http_port),
    ):
        scraper = Scraper(store, metrics, health, settings.scrape_period, queue.add)
        reader = Reader(
            store,
            metrics,
            health,
            server=settings.prometheus,
            period=settings.decide_period,
            tell=queue.add,
        )
        samples = ChosenSamples(store, direct=scraper, prometheus=reader)
        recorder = Recorder(cluster, settings.instance)
        doorbell = Doorbell(store, metrics, health, queue.add)
        startups, departures = Startups(store, health, queue.add), Departures(time.time())
        reconciler = Reconciler(
            cluster,
            store,
            samples=samples,
            recorder=recorder,
            metrics=metrics,
            settings=settings,
            doorbell=doorbell,
            startups=startups,
            departures=departures,
        )
        resync = Resync(
            cluster,
            store,
            queue=queue,
            health=health,
            metrics=metrics,
            namespaces=settings.watch_namespaces,
            period=settings.resync_period,
            profiles=(settings.lease_namespace, settings.profiles_configmap) if settings.profiles_configmap else None,
        )
        with _without_collections():
            await resync.first()
        logger.info(
            "synced", extra=kv(servers=len(store.servers()), namespaces=",".join(settings.watch_namespaces) or "all")
        )
        watching = watch(settings, cluster.credentials, _listener(store, queue, metrics, departures))
        election = Election(cluster, fence, settings, metrics=metrics, health=health)
        samplers = (scraper, reader, doorbell, startups)
        leader = Leader(store, queue, reconciler, samplers, health=health, workers=settings.workers)
        await _until(watching, election.run(leader.lead), resync.run())


class Leader:
    """The work of the one that leads: sample and reconcile. Lists and the watch go on while another one leads."""

    def __init__(
        self,
        store: Store,
        queue: WorkQueue,
        reconciler: Reconciler,
        samplers: tuple[Scraper, Reader, Doorbell, Startups],
        *,
        health: Health,
        workers: int,
    ) -> None:
        self._store = store
        self._queue = queue
        self._reconciler = reconciler
        self._samplers = samplers
        self._health = health
        self._workers = workers
        self._term: Term | None = None

    async def lead(self, term: Term) -> None:
        """Looks at every ModelServer, then works until it is cancelled."""
        if term != self._term:
            self._reconciler.forget_all()
        self._term = term
        for key in {*self._store.servers(), *self._reconciler.known()}:
            self._queue.add(key)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._queue.run(self._reconciler.reconcile, self._workers))
                for sampler in self._samplers:
                    group.create_task(sampler.run())
        finally:
            self._health.rest("queue", "scraper", "reader", "doorbell", "startups")


@contextlib.contextmanager
def _without_collections() -> Iterator[None]:
    """A list of thousands of objects has no cycles, but makes the collector look through all that is there, again and
    again. What is there at the end stays, and is not looked through later.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.freeze()


def _listener(store: Store, queue: WorkQueue, metrics: Metrics, departures: Departures) -> Listener:
    def listen(kind: str, gone: bool, raw: dict[str, Any]) -> None:
        metrics.watch_events.labels(kind=kind).inc()
        if kind == "Pod":
            departures.see(raw, gone=gone)
        asked = not gone and store.asks_anew(raw)
        take = store.remove if gone else store.put
        key = take(slim(raw), watched=True)
        if key is not None:
            (queue.hurry if asked else queue.add)(key)

    return listen


async def _until(watching: Awaitable[None], *loops: Coroutine[Any, Any, None]) -> None:
    """Runs the loops until the watch ends. An error in one of them ends everything, and Kubernetes starts anew."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        await watching
        for task in tasks:
            task.cancel()

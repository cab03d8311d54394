"""Wires the shells together and runs them until the watch ends."""

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any

from octavo_operator.cluster import Cluster
from octavo_operator.handlers import Listener, watch
from octavo_operator.health import Health
from octavo_operator.logs import kv
from octavo_operator.metrics import Metrics
from octavo_operator.reconcile import Reconciler
from octavo_operator.recorder import Recorder
from octavo_operator.resync import Resync
from octavo_operator.scraper import Scraper
from octavo_operator.settings import Settings
from octavo_operator.store import Store, slim
from octavo_operator.web import make_app, serving
from octavo_operator.workqueue import WorkQueue

logger = logging.getLogger(__name__)


async def serve(settings: Settings) -> None:
    """The operator's life: list, then watch, reconcile and scrape until SIGTERM. Raises when a part fails for good."""
    metrics, store = Metrics(), Store()
    health = Health(asyncio.get_running_loop().time)
    queue = WorkQueue(metrics, health)
    async with Cluster(settings.kubeconfig, metrics) as cluster, serving(make_app(metrics, health), settings.http_port):
        scraper = Scraper(store, metrics, health, settings.scrape_period)
        recorder = Recorder(cluster, settings.instance)
        reconciler = Reconciler(cluster, store, scraper=scraper, recorder=recorder, metrics=metrics, settings=settings)
        resync = Resync(
            cluster,
            store,
            queue=queue,
            health=health,
            namespaces=settings.watch_namespaces,
            period=settings.resync_period,
        )
        await resync.first()
        logger.info(
            "synced", extra=kv(servers=len(store.servers()), namespaces=",".join(settings.watch_namespaces) or "all")
        )
        watching = watch(settings, cluster.credentials, _listener(store, queue, metrics))
        await _until(watching, queue.run(reconciler.reconcile, settings.workers), scraper.run(), resync.run())


def _listener(store: Store, queue: WorkQueue, metrics: Metrics) -> Listener:
    def listen(kind: str, gone: bool, raw: dict[str, Any]) -> None:
        metrics.watch_events.labels(kind=kind).inc()
        take = store.remove if gone else store.put
        key = take(slim(raw), watched=True)
        if key is not None:
            queue.add(key)

    return listen


async def _until(watching: Awaitable[None], *loops: Coroutine[Any, Any, None]) -> None:
    """Runs the loops until the watch ends. An error in one of them ends everything, and Kubernetes starts anew."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(loop) for loop in loops]
        await watching
        for task in tasks:
            task.cancel()

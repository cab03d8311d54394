"""Health, the web server, and the resync's judgement of the watch."""

import asyncio

import aiohttp
import pytest

from cluster.ports import free_ports
from octavo_operator.core.errors import Unavailable
from octavo_operator.handlers import EndlessBackoffs
from octavo_operator.health import LONGEST_SILENCE, Health
from octavo_operator.metrics import Metrics
from octavo_operator.resync import Resync
from octavo_operator.store import Key, Store
from octavo_operator.web import make_app, serving
from octavo_operator.workqueue import WorkQueue


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_loop_that_stands_still_is_a_problem(clock):
    health = Health(clock)
    health.beat("queue")
    clock.now = LONGEST_SILENCE
    assert health.problems() == ()
    clock.now += 1
    (problem,) = health.problems()
    assert "queue" in problem


def test_a_deaf_watch_is_a_problem(clock):
    health = Health(clock)
    health.missed_events = "the watch of Pod stopped"
    assert health.problems() == ("the watch of Pod stopped",)


async def test_the_three_pages(clock):
    health, metrics = Health(clock), Metrics()
    metrics.scrapes.labels(result="ok").inc()
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    async with serving(make_app(metrics, health), port), aiohttp.ClientSession() as session:

        async def get(path):
            async with session.get(url + path) as answer:
                return answer.status, await answer.text()

        assert await get("/healthz") == (200, "ok")
        assert (await get("/readyz"))[0] == 503
        health.synced, health.missed_events = True, "deaf"
        assert await get("/readyz") == (200, "ok")
        assert await get("/healthz") == (503, "deaf")
        assert 'octavo_operator_scrapes_total{result="ok"} 1.0' in (await get("/metrics"))[1]


class Lists:
    """A cluster that only lists; the first answers may be outages."""

    def __init__(self, pods, outages=0):
        self.pods, self.outages, self.monitors = pods, outages, None

    async def serves(self, kind):
        return self.monitors is not None and kind == "PodMonitor"

    async def list_all(self, kind, _):
        if self.outages:
            self.outages -= 1
            raise Unavailable("outage")
        return ({"Pod": self.pods, "PodMonitor": self.monitors}.get(kind, []), 100)


@pytest.fixture
async def resync_of():
    def build(cluster):
        store, health = Store(), Health(asyncio.get_running_loop().time)
        metrics = Metrics()
        queue = WorkQueue(metrics, health)
        resync = Resync(cluster, store, queue=queue, health=health, metrics=metrics, namespaces=(), period=1.0)
        return store, health, resync

    return build


async def test_the_first_list_is_repeated_until_it_succeeds(resync_of, raw_pod):
    store, health, resync = resync_of(Lists([raw_pod()], outages=1))
    await resync.first()
    assert health.synced
    assert len(store.observe(Key("default", "chat")).pods) == 1


async def test_a_watch_that_delivered_what_the_list_showed_is_alive(resync_of, raw_pod):
    store, _, resync = resync_of(Lists([raw_pod()]))
    newest = await resync._list_all()
    assert "watch of Pod" in resync._missed(newest)
    store.put(raw_pod(), watched=True)
    assert resync._missed(newest) is None


async def test_a_kind_that_comes_later_is_found_and_one_that_goes_is_forgotten(resync_of):
    lists = Lists([])
    store, _, resync = resync_of(lists)
    await resync._list_all()
    assert store.served == set()
    metadata = {"name": "chat", "namespace": "default", "resourceVersion": "50"}
    lists.monitors = [{"kind": "PodMonitor", "metadata": metadata | {"labels": {"octavo.dev/modelserver": "chat"}}}]
    await resync._list_all()
    assert store.served == {"PodMonitor"}
    assert "PodMonitor" in store.observe(Key("default", "chat")).children
    lists.monitors = None
    newest = await resync._list_all()
    assert store.served == set()
    assert "PodMonitor" not in newest
    assert store.observe(Key("default", "chat")).children == {}


async def test_an_empty_cluster_proves_nothing_against_the_watch(resync_of):
    _, _, resync = resync_of(Lists([]))
    assert resync._missed(await resync._list_all()) is None


def test_the_watchs_backoffs_never_end():
    """Kopf's default gives up after 54 s."""
    delays = iter(EndlessBackoffs())
    seen = [next(delays) for _ in range(2000)]
    assert max(seen) <= 8
    assert min(seen[10:]) >= 4
    assert sum(seen) > 8_000

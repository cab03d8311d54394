"""The reconcile against a cluster in memory that can refuse: what is called, what is said, what is asked for again."""

import asyncio
import copy

import pytest

from octavo_operator.core import names
from octavo_operator.core.errors import Rejected, Unavailable
from octavo_operator.core.names import Reason
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.health import Health
from octavo_operator.metrics import Metrics
from octavo_operator.reconcile import AWAITED_SECONDS, REJECTED_RETRY_SECONDS, Reconciler
from octavo_operator.recorder import Recorder
from octavo_operator.scraper import Scraper
from octavo_operator.settings import read_settings
from octavo_operator.store import Key, Store

KEY = Key("default", "chat")


class Memory:
    """Takes what is applied; `refuse` maps a kind to the error that its next application meets, `stays` to what it is
    and remains, whatever is applied.
    """

    def __init__(self):
        self.calls, self.objects, self.refuse, self.version = [], {}, {}, 1000
        self.statuses, self.events, self.marked = [], [], []
        self.stays = {}

    async def get(self, kind, namespace, name):
        self.calls.append(("get", kind))
        return self.objects.get((kind, namespace, name))

    async def apply(self, manifest):
        kind = manifest["kind"]
        self.calls.append(("apply", kind))
        if kind in self.refuse:
            raise self.refuse[kind]
        if kind == "Pod":
            self.marked.append(manifest)
        return self.stays.get(kind) or self._stamped(manifest)

    async def apply_status(self, server, status):
        self.calls.append(("status", server["metadata"]["uid"]))
        self.statuses.append(ModelServerStatus.model_validate(status))
        return self._stamped({**server, "status": status})

    async def remove(self, existing):
        self.calls.append(("remove", existing["kind"]))

    async def create_event(self, _, body):
        self.events.append(body["reason"])

    def _stamped(self, raw):
        self.version += 1
        raw = copy.deepcopy(raw)
        raw["metadata"]["resourceVersion"] = str(self.version)
        return raw


class World:
    """A reconciler with its store and its cluster in memory."""

    def __init__(self, server):
        self.cluster, self.store, metrics = Memory(), Store(), Metrics()
        self.store.put(server)
        self.scraper = Scraper(self.store, metrics, Health(lambda: 0.0), period=1, tell=lambda *_: None)
        self.reconciler = Reconciler(
            self.cluster,
            self.store,
            samples=self.scraper,
            recorder=Recorder(self.cluster, "test"),
            metrics=metrics,
            settings=read_settings({"OCTAVO_RUNTIME_IMAGE": "example.invalid/runtime:1"}),
        )

    def edit(self, raw_server, **spec):
        """The user writes the spec."""
        server = raw_server(generation=self.cluster.version, **spec)
        server["metadata"]["resourceVersion"] = str(self.cluster.version + 1)
        self.cluster.version += 2
        self.store.put(server)

    async def reconcile(self):
        """Reconciles once; returns what was called and what it asked for."""
        self.cluster.calls.clear()
        again = await self.reconciler.reconcile(KEY)
        return list(self.cluster.calls), again

    @property
    def ready(self):
        return self.cluster.statuses[-1].condition("Ready")


@pytest.fixture
def world(raw_server):
    return World(raw_server())


async def test_the_first_look_creates_and_the_second_does_nothing(world):
    calls, _ = await world.reconcile()
    assert [call[0] for call in calls] == [*["get"] * 4, *["apply"] * 4, "status"]
    assert await world.reconcile() == ([], None)
    assert world.cluster.events == ["Created", "Created"]  # and no flood of them


async def test_what_was_written_is_gone_on_from_though_the_watch_says_nothing_new_of_it(world):
    """Its events have the versions that the answers to the writes had."""
    _, again = await world.reconcile()
    assert again == 0.0
    for child in world.store.observe(KEY).children.values():
        assert world.store.put(child, watched=True) is None


async def test_a_write_that_changes_nothing_is_not_gone_on_from(world):
    """Somebody's webhook rewrites it each time, say: that must not become a loop."""
    await world.reconcile()
    deployment = world.store.observe(KEY).children["Deployment"]
    metadata = deployment["metadata"] | {"resourceVersion": str(world.cluster.version + 1)}
    world.cluster.stays["Deployment"] = deployment | {"metadata": metadata, "spec": {"replicas": 7}}
    world.store.put(world.cluster.stays["Deployment"])
    calls, again = await world.reconcile()
    assert ("apply", "Deployment") in calls
    assert again is None


async def test_the_status_is_written_for_the_object_that_was_seen(world, raw_server):
    calls, _ = await world.reconcile()
    assert calls[-1] == ("status", raw_server()["metadata"]["uid"])


async def test_a_rejected_child_is_told_and_tried_again_later(world):
    world.cluster.refuse["Deployment"] = Rejected("denied by policy", 403)
    _, again = await world.reconcile()
    assert (world.ready.reason, world.ready.message) == (Reason.APPLY_REJECTED, "denied by policy")
    assert again == REJECTED_RETRY_SECONDS
    assert "ApplyRejected" in world.cluster.events
    world.cluster.refuse.clear()
    await world.reconcile()
    assert world.ready.reason != Reason.APPLY_REJECTED


async def test_one_childs_failure_does_not_keep_the_other_from_being_written(world):
    """A cluster without free service addresses still gets its pods, and the user is told."""
    world.cluster.refuse["Service"] = Unavailable("range is full", 500)
    with pytest.raises(Unavailable, match="range is full"):
        await world.reconcile()
    assert ("apply", "Deployment") in world.cluster.calls
    assert world.ready.reason == Reason.APPLY_FAILED
    assert world.cluster.statuses[-1].condition("Stalled") is None


async def test_a_hiccup_while_an_existing_child_is_put_back_is_no_news(world):
    await world.reconcile()
    drifted = copy.deepcopy(world.store.observe(KEY).children["Service"])
    drifted["spec"]["type"] = "NodePort"
    drifted["metadata"]["resourceVersion"] = "5000"
    world.store.put(drifted)
    world.cluster.refuse["Service"] = Unavailable("overloaded", 429)
    before = world.ready
    with pytest.raises(Unavailable):
        await world.reconcile()
    assert world.ready == before


async def test_what_the_watch_does_not_show_is_looked_up_before_it_is_created(world):
    """The watch is limited to our label: a foreign object of that name is invisible to it."""
    world.cluster.objects["Service", "default", "chat"] = {"kind": "Service", "metadata": {"name": "chat"}, "spec": {}}
    calls, _ = await world.reconcile()
    assert ("apply", "Service") not in calls
    assert world.ready.reason == Reason.NAME_TAKEN


async def test_a_child_that_is_not_wanted_any_more_is_removed(world, raw_server):
    """Kubectl scale to 2 and back to 1: the budget comes and goes."""
    world.edit(raw_server, replicas=2)
    assert ("apply", "PodDisruptionBudget") in (await world.reconcile())[0]
    world.edit(raw_server, replicas=1)
    assert ("remove", "PodDisruptionBudget") in (await world.reconcile())[0]
    assert (await world.reconcile())[0] == []


async def test_monitors_come_when_the_cluster_has_their_kind_and_its_loss_is_no_failure(world):
    await world.reconcile()
    world.store.served.add("PodMonitor")
    world.cluster.refuse["PodMonitor"] = Rejected("no such kind", 404)
    assert ("apply", "PodMonitor") in (await world.reconcile())[0]
    assert world.ready.reason != Reason.APPLY_REJECTED
    assert "PodMonitor" not in world.store.served
    world.store.served.add("PodMonitor")
    world.cluster.refuse.clear()
    await world.reconcile()
    assert "PodMonitor" in world.store.observe(KEY).children


async def stale(world, kind):
    """Somebody has put back what the store shows as changed."""
    await world.reconcile()
    older = copy.deepcopy(world.store.observe(KEY).children[kind])
    newer = copy.deepcopy(older)
    newer["metadata"]["resourceVersion"] = "7000"
    world.cluster.objects[kind, "default", "chat"] = newer
    older["spec"]["selector"] = {"a": "b"}
    older["metadata"]["resourceVersion"] = "6000"
    world.store.put(older)


async def test_a_child_that_somebody_wrote_meanwhile_is_looked_at_again(world):
    await stale(world, "Service")
    world.cluster.refuse["Service"] = Unavailable("conflict", 409)
    with pytest.raises(Unavailable):
        await world.reconcile()
    world.cluster.refuse.clear()
    assert (await world.reconcile())[0] == []


async def test_a_child_of_an_optional_kind_is_looked_at_before_it_is_written(world):
    """There is no watch that would tell of it."""
    world.store.served.add("PodMonitor")
    await stale(world, "PodMonitor")
    assert (await world.reconcile())[0] == [("get", "PodMonitor")]
    assert (await world.reconcile())[0] == []
    drifted = copy.deepcopy(world.store.observe(KEY).children["PodMonitor"])
    drifted["spec"]["selector"] = {"a": "b"}
    drifted["metadata"]["resourceVersion"] = "8000"
    world.store.put(drifted)
    world.cluster.objects.clear()
    assert ("apply", "PodMonitor") in (await world.reconcile())[0], "it is made anew where it is gone"


async def test_a_deployment_goes_when_the_groups_that_replace_it_are_taken_up(world, raw_server):
    """Nobody tells of that, so it is asked for."""
    await world.reconcile()
    world.store.put(world.store.observe(KEY).children["Deployment"] | {"status": {"observedGeneration": 1}})
    world.store.served.add("LeaderWorkerSet")
    world.edit(raw_server, accelerator={"count": 8, "nodes": 2})
    calls, again = await world.reconcile()
    assert ("apply", "LeaderWorkerSet") in calls
    assert ("remove", "Deployment") not in calls
    assert again == AWAITED_SECONDS
    groups = world.store.observe(KEY).children["LeaderWorkerSet-group"]
    world.cluster.objects["LeaderWorkerSet", "default", "chat-group"] = groups
    assert (await world.reconcile())[0] == [("get", "LeaderWorkerSet")]
    taken_up = {"status": {"replicas": 1}, "metadata": groups["metadata"] | {"resourceVersion": "9000"}}
    world.cluster.objects["LeaderWorkerSet", "default", "chat-group"] = groups | taken_up
    calls, again = await world.reconcile()
    assert calls[:2] == [("get", "LeaderWorkerSet"), ("remove", "Deployment")]
    assert again is None


async def test_another_leader_in_between_is_a_new_start(world):
    await world.reconcile()
    world.reconciler.forget_all()
    assert world.reconciler.known() == ()


async def test_a_server_that_is_gone_is_forgotten(world, raw_server):
    await world.reconcile()
    world.store.remove(raw_server())
    assert await world.reconcile() == ([], None)
    assert not world.reconciler._known


async def test_another_server_of_the_same_name_inherits_nothing(world, raw_server):
    await world.reconcile()
    other = raw_server()
    other["metadata"] |= {"uid": "another", "resourceVersion": "9000"}
    world.store.put(other)
    await world.reconcile()
    assert world.reconciler._known[KEY].uid == "another"


async def test_who_goes_is_chosen_by_what_the_replicas_do_now(world, raw_server, raw_pod, monkeypatch):
    """Replicas that nobody scales are asked every half minute: streams that have begun since would go unseen."""
    busy, asked = {"a": 10, "b": 500}, []

    async def fetch(_, url):
        asked.append(name := url.removeprefix("http://")[0])
        figures = {names.METRIC_RUNNING: 1, names.METRIC_WAITING: 0, names.METRIC_KV_CAPACITY: 1000}
        return "".join(f"{key} {value}\n" for key, value in {**figures, names.METRIC_KV_USED: busy[name]}.items())

    monkeypatch.setattr("octavo_operator.scraper.fetch", fetch)
    world.edit(raw_server, replicas=2)
    await world.reconcile()
    for name in busy:
        pod = raw_pod(name, ready=True)
        pod["status"]["podIP"] = name
        world.store.put(pod)
    running = asyncio.create_task(world.scraper.run())
    async with asyncio.timeout(90):
        while len(asked) < len(busy):  # noqa: ASYNC110  nothing tells of a sample that is no news
            await asyncio.sleep(0.01)
    busy.update(a=500, b=10)
    world.edit(raw_server, replicas=1)
    await world.reconcile()
    running.cancel()
    assert [pod["metadata"]["name"] for pod in world.cluster.marked] == ["b"]

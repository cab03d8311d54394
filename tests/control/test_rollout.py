"""Surge or in place: single looks, and whole rollouts beside a Deployment's controller, a scheduler and G GPUs."""

from dataclasses import dataclass, field
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_operator.core.footprint import Footprint
from octavo_operator.core.names import Reason
from octavo_operator.core.observed import DeploymentView, PodView, view_deployment, view_pod
from octavo_operator.core.problems import Problem
from octavo_operator.core.profiles import BUILT_IN, settle
from octavo_operator.core.rollout import OVERDUE_SECONDS, is_rolling, replaces_in_place
from octavo_operator.core.spec import parse_spec

BASE = {"model": {"source": {"pvc": {"claimName": "models"}}}}
AUTO = parse_spec(BASE)
NOW = 1000.0
ONE_GPU = Footprint(({}, {}), ({"nvidia.com/gpu": "1", "memory": "8Gi"},))
SHORT = (
    "0/2 nodes are available: 1 Insufficient nvidia.com/gpu, 1 node(s) had untolerated taint {a: b}. preemption: no."
)


def pod(name, revision, *, footprint=ONE_GPU, waits=None, ends_by=0.0, ready=None):
    problem = Problem(Reason.UNSCHEDULABLE, waits, stalled=False, failed=False) if waits is not None else None
    return PodView(
        uid=name, name=name, ip=None, ready=waits is None if ready is None else ready, ready_since=0.0,
        terminating=ends_by > 0, created="", revision=revision, problem=problem, ends_by=ends_by, footprint=footprint,
    )  # fmt: skip


def deployment(wanted=2, *, updated=1, replicas=3, in_place=False, current=True, refused=None):
    return DeploymentView(
        wanted=wanted, revision="new", current=current, replicas=replicas, updated=updated, available=wanted,
        deadline_exceeded=None, pods_refused=refused, in_place=in_place, footprint=ONE_GPU,
    )  # fmt: skip


OLD = pod("old", "old")
WAITS = pod("new", "new", waits=SHORT)


def decided(view, *pods, spec=AUTO, now=NOW, left=None):
    return replaces_in_place(spec, view.wanted if view else 2, view, pods, now, left=left)


def test_a_new_replica_without_room_takes_an_old_ones():
    assert decided(deployment(), OLD, WAITS)


def test_room_that_has_just_been_left_is_the_schedulers_to_give():
    """It says what it said until it has looked again: seen on a node, where one free GPU cost a replica."""
    assert not decided(deployment(), OLD, WAITS, left=NOW - 1)
    assert decided(deployment(), OLD, WAITS, left=NOW - 16)
    assert decided(deployment(in_place=True), OLD, WAITS, left=NOW - 1)


@pytest.mark.parametrize(
    "pods",
    [
        (OLD,),
        (OLD, pod("new", "new", ready=False)),
        (OLD, pod("new", "new", waits="0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.")),
        (OLD, pod("new", "new", waits="")),
        (WAITS,),
        (pod("old", "old", waits=SHORT), WAITS),
        (pod("old", "old", footprint=Footprint(({"pool": "a"}, {}), ONE_GPU.requests)), WAITS),
        (pod("old", "old", footprint=Footprint(({}, {}), ({"nvidia.com/gpu": "0"},))), WAITS),
        (OLD, pod("new", "new", waits=SHORT, footprint=Footprint(({}, {}), ({"nvidia.com/gpu": "2"},)))),
    ],
    ids=[
        "none yet", "it starts", "no such node", "no words", "no old one", "the old one has no node",
        "the old one is elsewhere", "the old one has none", "it needs more",
    ],
)  # fmt: skip
def test_an_old_replica_stays_where_its_end_would_not_help(pods):
    """A typo in a node selector must not cost the replica that serves."""
    assert not decided(deployment(), *pods)


def test_other_resources_count_too():
    crowded = pod("new", "new", waits="0/1 nodes are available: 1 Too many pods.")
    short = pod("new", "new", waits="0/1 nodes are available: 1 Insufficient memory.")
    assert decided(deployment(), OLD, crowded)
    assert decided(deployment(), OLD, short)
    lean = pod("old", "old", footprint=Footprint(({}, {}), ({"memory": "4Gi"}, {"memory": "4095Mi"})))
    assert not decided(deployment(), lean, short)


def test_an_accelerator_that_is_being_left_is_waited_for_and_a_dead_nodes_is_not():
    """With one free GPU the second new replica finds none only because the first old one still drains."""
    leaving = pod("gone", "old", ends_by=NOW + 30)
    assert not decided(deployment(), OLD, WAITS, leaving)
    assert decided(deployment(), OLD, WAITS, leaving, now=leaving.ends_by + OVERDUE_SECONDS)
    elsewhere = pod("gone", "old", ends_by=NOW + 30, footprint=Footprint(({"pool": "b"}, {}), ONE_GPU.requests))
    assert decided(deployment(), OLD, WAITS, elsewhere)


def test_a_quota_is_no_room_either():
    refused = 'pods "chat-1" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=1'
    assert decided(deployment(refused=refused), OLD)
    assert not decided(deployment(refused="forbidden: violates PodSecurity"), OLD)


def test_it_stays_in_place_until_the_rollout_is_over():
    assert decided(deployment(in_place=True, updated=1, replicas=2), OLD, pod("new", "new"))
    assert decided(deployment(in_place=True, current=False, updated=2, replicas=2), pod("new", "new"))
    assert decided(deployment(in_place=True, updated=0, replicas=0), pod("old", "old", ends_by=NOW + 9))
    assert not decided(deployment(in_place=True, updated=2, replicas=2), pod("a", "new"), pod("b", "new"))


def test_a_scale_up_without_room_is_no_rollout():
    assert not decided(deployment(updated=2, replicas=2), pod("a", "new"), WAITS)
    assert not is_rolling(deployment(updated=2, replicas=2), (pod("a", "new"), WAITS))


@pytest.mark.parametrize(("strategy", "expected"), [("Surge", False), ("InPlace", True)])
def test_a_user_who_chose_gets_it(strategy, expected):
    spec = parse_spec(BASE | {"rollout": {"strategy": strategy}})
    assert decided(deployment(), OLD, WAITS, spec=spec) is expected
    assert decided(None, spec=spec) is expected
    assert decided(deployment(updated=2, replicas=2), spec=spec) is expected


def test_a_budget_that_is_spent_wins():
    budget = {"maxCostPerHour": "4", "replicaCostPerHour": "2"}
    scaling = {"maxReplicas": 3, "targets": {"waitingPerReplica": 1}, "budget": budget}
    spec = settle(parse_spec(BASE | {"autoscaling": scaling, "rollout": {"strategy": "Surge"}}), BUILT_IN)
    assert replaces_in_place(spec, 2, None, (), NOW)
    assert not replaces_in_place(spec, 1, None, (), NOW)


def test_what_a_pod_asks_for_is_read_from_the_pod(raw_pod, raw_deployment):
    spec = {
        "nodeSelector": {"pool": "a"},
        "affinity": {"nodeAffinity": {"x": 1}},
        "containers": [{"resources": {"requests": {"cpu": "500m", "nvidia.com/gpu": "1"}}}, {}],
        "initContainers": [
            {"resources": {"requests": {"cpu": "8"}}},
            {"restartPolicy": "Always", "resources": {"requests": {"cpu": "1"}}},
        ],
    }
    footprint = view_pod(raw_pod(terminating=True) | {"spec": spec}).footprint
    assert footprint.place == ({"pool": "a"}, {"x": 1})
    assert (footprint.amount("cpu"), footprint.resources) == (Fraction(3, 2), {"cpu", "nvidia.com/gpu"})
    raw = raw_deployment()
    raw["spec"] |= {"strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}}
    raw["spec"]["template"]["spec"] = spec
    view = view_deployment(raw)
    assert (view.in_place, view.footprint) == (True, footprint)
    assert view_pod(raw_pod(terminating=True)).ends_by > 0


# --- whole rollouts ---------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A Deployment's controller as Kubernetes has it (deployment/rolling.go), a scheduler, and pods that end slowly.

    One call of `tick` is one second of all of them, the operator's look last, as the laziest one.
    """

    wanted: int
    gpus: int
    drain: int
    start: int = 2
    crashes: bool = False
    spec: object = AUTO
    in_place: bool = False
    now: float = 0.0
    pods: list[PodView] = field(default_factory=list)
    born: dict[str, float] = field(default_factory=dict)
    least: int = 10**9
    names: int = 0

    def __post_init__(self):
        self.pods = [pod(f"old-{number}", "old") for number in range(self.wanted)]

    def staying(self, revision=None):
        return [p for p in self.pods if not p.terminating and revision in (None, p.revision)]

    def serving(self, revision=None):
        return [p for p in self.staying(revision) if p.ready]

    def view(self):
        return DeploymentView(
            wanted=self.wanted, revision="new", current=True, replicas=len(self.staying()),
            updated=len(self.staying("new")), available=len(self.serving()), deadline_exceeded=None, pods_refused=None,
            in_place=self.in_place, footprint=ONE_GPU,
        )  # fmt: skip

    def tick(self):
        self.now += 1
        self.pods = [p for p in self.pods if not p.terminating or self.now < p.ends_by]
        self._control()
        self._schedule()
        self.least = min(self.least, len(self.serving()))
        self.in_place = replaces_in_place(self.spec, self.wanted, self.view(), tuple(self.pods), self.now)

    def _control(self):
        surge, unavailable = int(not self.in_place), int(self.in_place)
        new = self.staying("new")
        room = self.wanted + surge - len(self.staying())
        for _ in range(max(0, min(room, self.wanted - len(new)))):
            self.names += 1
            self._replace(None, pod(f"new-{self.names}", "new", waits="", ready=False))
        least = self.wanted - unavailable
        broken = len(self.staying("new")) - len(self.serving("new"))
        may_go = len(self.staying()) - least - broken
        unhealthy = [p for p in self.staying("old") if not p.ready][: max(0, may_go)]
        healthy = self.serving("old")[: max(0, min(may_go, len(self.serving()) - least))]
        for gone in unhealthy or healthy:
            self._replace(gone, pod(gone.name, "old", ends_by=self.now + self.drain))

    def _schedule(self):
        for waiting in [p for p in self.staying("new") if not p.ready]:
            if waiting.name not in self.born and self._used() < self.gpus:
                self.born[waiting.name] = self.now
            here = waiting.name in self.born
            done = here and not self.crashes and self.now - self.born[waiting.name] >= self.start
            self._replace(waiting, pod(waiting.name, "new", waits=None if here else SHORT, ready=done))

    def _used(self):
        return sum(1 for p in self.pods if p.revision == "old" or p.name in self.born)

    def _replace(self, before, after):
        self.pods = [p for p in self.pods if before is None or p.name != before.name] + [after]


WORLDS = {"wanted": st.integers(1, 4), "drain": st.integers(1, 9), "start": st.integers(1, 5)}


def finished(world):
    return len(world.serving("new")) == world.wanted and len(world.pods) == world.wanted


@given(free=st.integers(0, 3), **WORLDS)
@settings(deadline=None)
def test_g13_a_rollout_finishes_however_many_gpus_are_free(free, wanted, drain, start):
    """And takes capacity away only where none is free; then it is one replica at a time."""
    world = Cluster(wanted, gpus=wanted + free, drain=drain, start=start)
    for _ in range(wanted * (drain + start + 5) + 5):
        world.tick()
    assert finished(world)
    assert not world.in_place
    assert world.least == wanted - (free == 0)


@given(free=st.integers(0, 1), **WORLDS)
@settings(deadline=None)
def test_a_rollout_stops_at_a_new_replica_that_crashes(free, wanted, drain, start):
    world = Cluster(wanted, gpus=wanted + free, drain=drain, start=start, crashes=True)
    for _ in range(100):
        world.tick()
    assert len(world.serving("old")) == wanted - (free == 0)
    assert len(world.staying("new")) == 1


@given(**WORLDS)
@settings(deadline=None)
def test_in_place_takes_one_at_a_time_also_where_many_are_free(wanted, drain, start):
    spec = parse_spec(BASE | {"rollout": {"strategy": "InPlace"}})
    world = Cluster(wanted, gpus=2 * wanted, drain=drain, start=start, spec=spec, in_place=True)
    for _ in range(wanted * (drain + start + 5) + 5):
        world.tick()
    assert finished(world)
    assert world.least == wanted - 1


def test_without_the_switch_the_rollout_would_wait_for_ever():
    """The simulation shows the deadlock that the strategy is for."""
    world = Cluster(2, gpus=2, drain=1, spec=parse_spec(BASE | {"rollout": {"strategy": "Surge"}}))
    for _ in range(500):
        world.tick()
    assert not finished(world)

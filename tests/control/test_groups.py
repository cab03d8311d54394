"""Replicas that take several nodes: the children, what their pods add up to, and the way from and to single pods."""

import copy
import itertools
from dataclasses import replace

import pytest

from octavo_operator.core.desired import Scaler
from octavo_operator.core.groups import view_groups, view_workload, without_a_node
from octavo_operator.core.manifest import Defaults, Owner, slot
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.names import OPTIONAL_KINDS, WORKLOADS, Condition, Reason
from octavo_operator.core.observed import live_pods
from octavo_operator.core.plan import difference
from octavo_operator.core.profiles import BUILT_IN, settle
from octavo_operator.core.proposal import facts_of, propose
from octavo_operator.core.render import render
from octavo_operator.core.server import parse_server
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.status import compute_status
from octavo_operator.core.status_model import ModelServerStatus

NOW = 1_800_000_000.0
OWNER = Owner("default", "chat", "0b0c7d5e-1111-4222-8333-444455556666")
INSTALLED = Defaults(
    runtime_image="example.invalid/runtime:1",
    operator_namespace="octavo-system",
    prometheus_namespace="monitoring",
    pod_monitors=True,
    served=OPTIONAL_KINDS,
    activator_image="example.invalid/operator:1",
)
NODES = {"accelerator": {"profile": "H100", "count": 8, "nodes": 2}}
SCALED = {"maxReplicas": 4, "targets": {"waitingPerReplica": 2}}
WORDS = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
HOMELESS = {"PodScheduled": {"status": "False", "reason": "Unschedulable", "message": WORDS}}
GROUPS = "LeaderWorkerSet-group"


@pytest.fixture
def children(raw_spec):
    """By slot."""

    def build(replicas=2, *, in_place=False, **spec):
        manifests = render(parse_spec(raw_spec(**NODES | spec)), OWNER, replicas, INSTALLED, in_place=in_place)
        return {slot(manifest, OWNER.name): manifest for manifest in manifests}

    return build


@pytest.fixture
def group(raw_pod):
    """The pods of one group; `leader` and `worker` say more of them than that they are ready."""

    def build(index=0, *, leader=None, worker=None, size=2, revision="r1"):
        def pod(name, role, told):
            raw = raw_pod(name, revision=revision, **{"ready": True} | (told or {}))
            raw["metadata"]["labels"] = {
                "octavo.dev/modelserver": role,
                "leaderworkerset.sigs.k8s.io/group-index": str(index),
            }
            raw["metadata"]["annotations"]["leaderworkerset.sigs.k8s.io/size"] = str(size)
            return raw

        first = pod(f"chat-group-{index}", "chat", leader)
        return first, [pod(f"chat-group-{index}-{n}", "chat.worker", worker) for n in range(1, size)]

    return build


def together(*groups):
    """Leaders and workers."""
    return [leader for leader, _ in groups], [worker for _, workers in groups for worker in workers]


@pytest.fixture
def raw_groups(children):
    """The LeaderWorkerSet as it is applied, for pods of revision r1."""

    def build(wanted=2, *, revision="r1", **spec):
        raw = copy.deepcopy(children(wanted, **spec)[GROUPS])
        raw["metadata"] |= {"resourceVersion": "5", "uid": "uid-group"}
        for template in ("leaderTemplate", "workerTemplate"):
            annotations = raw["spec"]["leaderWorkerTemplate"][template]["metadata"]["annotations"]
            annotations["octavo.dev/template"] = revision
        return raw

    return build


# --- the children -----------------------------------------------------------------------------------------------------


def templates(found):
    both = found[GROUPS]["spec"]["leaderWorkerTemplate"]
    return both["leaderTemplate"], both["workerTemplate"]


def test_golden_children_of_groups(golden, children):
    golden("children-group", list(children().values()))


def test_a_group_takes_the_place_of_a_deployment(children):
    found = children()
    assert "Deployment" not in found
    spec = found[GROUPS]["spec"]
    assert (spec["replicas"], spec["leaderWorkerTemplate"]["size"]) == (2, 2)
    assert children(accelerator=NODES["accelerator"] | {"nodes": 1}).keys() == {
        *found.keys() - {GROUPS, "Service-group"},
        "Deployment",
    }


def test_every_pod_has_the_same_arguments_and_its_share_of_the_gpus(children):
    for template in templates(children()):
        (container,) = template["spec"]["containers"]
        args = container["args"]
        pairs = dict(itertools.pairwise(args))
        told = {flag: pairs[flag] for flag in pairs if flag.startswith(("--tensor", "--node", "--leader", "--group"))}
        assert told == {
            "--tensor-parallel-size": "16",
            "--nodes": "2",
            "--node-rank": "$(LWS_WORKER_INDEX)",
            "--leader-address": "$(LWS_LEADER_ADDRESS)",
            "--group-timeout": "1800",
        }
        assert container["resources"]["limits"] == {"nvidia.com/gpu": "8"}
        assert container["resources"]["requests"]["memory"] == str(8 * 64 << 30)
        assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}} in template["spec"]["volumes"]


def test_workers_have_the_leaders_template_but_for_the_label(children):
    leader, worker = templates(children(podTemplate={"metadata": {"labels": {"team": "a"}}}))
    assert worker["spec"] == leader["spec"]
    assert worker["metadata"]["annotations"] == leader["metadata"]["annotations"]
    assert worker["metadata"]["labels"] == leader["metadata"]["labels"] | {"octavo.dev/modelserver": "chat.worker"}


def test_only_leaders_are_selected_where_replicas_are_meant(children):
    found = children(networking={"inferencePool": {"endpointPickerRef": {"name": "picker"}}})
    leaders = {"octavo.dev/modelserver": "chat"}
    assert found["Service"]["spec"]["selector"] == leaders
    for kind in ("PodMonitor", "InferencePool"):
        assert found[kind]["spec"]["selector"] == {"matchLabels": leaders}


def test_the_pods_of_groups_reach_each_other_and_nobody_else_reaches_workers_ports(children):
    spec = children()["NetworkPolicy"]["spec"]
    both = {"key": "octavo.dev/modelserver", "operator": "In", "values": ["chat", "chat.worker"]}
    every = {"matchExpressions": [both]}
    assert spec["podSelector"] == every
    others, own = spec["ingress"]
    assert others["ports"] == [{"protocol": "TCP", "port": 8000}]
    assert own == {"from": [{"podSelector": every}]}
    to_own, names = spec["egress"]
    assert to_own == {"to": [{"podSelector": every}]}
    assert [(port["protocol"], port["port"]) for port in names["ports"]] == [("UDP", 53), ("TCP", 53)]


def test_a_source_that_is_fetched_brings_its_own_rule_for_names(children):
    spec = children(model={"source": {"hub": {"repo": "a/b"}, "pvc": None}})["NetworkPolicy"]["spec"]
    assert [port["port"] for rule in spec["egress"] for port in rule.get("ports", [])] == [53, 53, 443]


@pytest.mark.parametrize(("groups", "pods"), [(1, 1), (2, 3)])
def test_a_node_drain_takes_as_many_groups_as_it_may(children, groups, pods):
    """An eviction of one pod takes two: with 2 groups allowed it may go on after the first has gone."""
    budget = children(disruption={"maxUnavailable": groups})["PodDisruptionBudget"]["spec"]
    assert budget["maxUnavailable"] == pods
    assert budget["selector"]["matchExpressions"][0]["values"] == ["chat", "chat.worker"]


@pytest.mark.parametrize(("in_place", "expected"), [(False, (0, 1)), (True, (1, 0))])
def test_groups_surge_or_go_first(children, in_place, expected):
    rolling = children(in_place=in_place)[GROUPS]["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == expected


def test_a_budget_pays_for_the_gpus_of_all_nodes(raw_spec):
    budget = {"autoscaling": SCALED | {"budget": {"maxCostPerHour": "300"}}}
    spec = settle(parse_spec(raw_spec(**NODES | budget)), BUILT_IN)
    assert spec.autoscaling.budget.replica_cost_per_hour == f"{round(6.9 * 16 * 10**6)}u"


def test_what_the_api_server_leaves_out_of_a_template_is_no_drift(raw_groups):
    desired, observed = raw_groups(), raw_groups()
    container = desired["spec"]["leaderWorkerTemplate"]["leaderTemplate"]["spec"]["containers"][0]
    container |= {"tty": False, "workingDir": ""}
    assert difference(desired, observed) == ()
    container["stdin"] = True
    assert difference(desired, observed) == ("spec.leaderWorkerTemplate.leaderTemplate.spec.containers[runtime].stdin",)


# --- what the pods add up to ------------------------------------------------------------------------------------------


def counts(raw, *groups, more=()):
    leaders, workers = together(*groups)
    view = view_groups(raw, live_pods([*leaders, *more]), live_pods(workers))
    return view.replicas, view.updated, view.available


def test_a_group_serves_when_all_of_it_is_ready(raw_groups, group):
    raw = raw_groups()
    assert counts(raw) == (0, 0, 0)
    assert counts(raw, group(0), group(1)) == (2, 2, 2)
    assert counts(raw, group(0), group(1, worker={"ready": False})) == (2, 2, 1)
    assert counts(raw, group(0), group(1, leader={"ready": False})) == (2, 2, 1)
    assert counts(raw, (group(0)[0], [])) == (1, 1, 0), "its workers have not come yet"
    assert counts(raw, group(0, size=4), group(1, size=4)) == (2, 2, 2)


def test_groups_of_another_revision_and_those_that_go_are_told_apart(raw_groups, group):
    raw, gone = raw_groups(revision="r2"), {"terminating": True}
    assert counts(raw, group(0), group(1, revision="r2")) == (2, 1, 2)
    assert counts(raw, group(0), group(1, leader=gone, worker=gone)) == (1, 0, 1)
    old_leader, old_workers = group(0, leader=gone, worker=gone)
    leader, _ = group(0, revision="r2")
    assert counts(raw, (old_leader, old_workers), (leader, [])) == (1, 1, 0), "the number of a group is taken up again"


def test_single_replicas_from_before_serve_until_they_go(raw_groups, raw_pod):
    raw = raw_groups(revision="r2")
    assert counts(raw, more=[raw_pod("chat-1", ready=True)]) == (1, 0, 1)


@pytest.mark.parametrize("size", ["", "x", "-1", "0", "2e9", "9" * 5000, "\u0662"])
def test_a_size_that_is_none_is_one_pod(raw_groups, group, size):
    leader, _ = group(0)
    leader["metadata"]["annotations"]["leaderworkerset.sigs.k8s.io/size"] = size
    assert counts(raw_groups(), (leader, [])) == (1, 1, 1)


def test_the_facts_of_the_set_itself(raw_groups):
    view = view_groups(raw_groups(3, in_place=True), (), ())
    assert (view.wanted, view.revision, view.current, view.in_place, view.grouped) == (3, "r1", True, True, True)
    assert "nvidia.com/gpu" in view.footprint.resources


def test_the_wanted_kind_speaks_and_the_other_one_until_it_is_there(raw_groups, raw_deployment, raw_spec):
    single, grouped = parse_spec(raw_spec()), parse_spec(raw_spec(**NODES))
    both = dict(zip(WORKLOADS, (raw_deployment(5), raw_groups(3)), strict=True))
    assert view_workload(single, both, (), ()).wanted == 5
    assert view_workload(grouped, both, (), ()).wanted == 3
    assert view_workload(grouped, {"Deployment": raw_deployment(5)}, (), ()).wanted == 5
    assert view_workload(None, {GROUPS: raw_groups(3)}, (), ()).wanted == 3
    assert view_workload(single, {}, (), ()) is None


def test_a_group_that_waits_for_two_nodes_is_one(group, raw_pod):
    waiting = {"ready": False, "conditions": HOMELESS}
    leaders, workers = together(group(0), group(1, leader=waiting, worker=waiting), group(2, worker=waiting))
    single = raw_pod("chat-1", conditions=HOMELESS)
    assert without_a_node(live_pods([*leaders, *workers, single])) == 3


# --- conditions -------------------------------------------------------------------------------------------------------


@pytest.fixture
def looked(raw_server, raw_groups):
    """The proposal and the status after a look at these groups."""

    def run(*groups, children=None, more=(), previous=None, scaler=None, defaults=INSTALLED, **spec):
        server = parse_server(raw_server(**NODES | {"replicas": 2} | spec))
        leaders, workers = together(*groups)
        found = {GROUPS: raw_groups(2)} if children is None else children
        seen = {"pods": (*leaders, *more), "workers": tuple(workers)}
        before = previous or ModelServerStatus()
        scaler = scaler or Scaler(None, ScalerMemory(since=0.0))
        proposal = propose(
            server, before, children=found, windows={}, scaler=scaler, defaults=defaults, now=NOW, **seen
        )
        facts = facts_of(proposal, proposal.failure, found, seen["pods"], before, workers=seen["workers"])
        status = compute_status(server.owner, server.spec, facts, signals=proposal.signals, decision=None, now=NOW)
        return proposal, status

    return run


def ready(status):
    found = status.condition(Condition.READY)
    return found.status, found.reason, found.message


def test_groups_are_the_replicas_of_the_status(looked, group):
    _, status = looked(group(0), group(1))
    assert ready(status) == ("True", Reason.READY, "2 of 2 replicas serve")
    assert (status.replicas, status.ready_replicas, status.updated_replicas) == (2, 2, 2)
    assert status.selector == "octavo.dev/modelserver=chat"


@pytest.mark.parametrize(
    ("container", "reason", "words"),
    [
        ({"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no image"}}}, Reason.IMAGE_PULL, "no image"),
        ({"state": {"terminated": {"exitCode": 1}}}, Reason.CONTAINER_FAILED, "ended with exit code 1"),
        ({"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}}, Reason.OOM_KILLED, "memory"),
    ],
)
def test_what_keeps_a_worker_is_told_with_its_name(looked, group, container, reason, words):
    _, status = looked(group(0), group(1, leader={"ready": False}, worker={"ready": False, "container": container}))
    _, found, message = ready(status)
    assert found == reason
    assert message.startswith("chat-group-1-1: ")
    assert words in message


def test_a_worker_without_a_node_is_told_with_its_name(looked, group):
    _, status = looked(group(0), group(1, leader={"ready": False}, worker={"ready": False, "conditions": HOMELESS}))
    assert ready(status) == ("False", Reason.UNSCHEDULABLE, f"1 of 2 replicas serve: chat-group-1-1: {WORDS}")
    capacity = status.condition(Condition.CAPACITY_AVAILABLE)
    assert capacity.message == f"1 of 4 pods wait for a node: chat-group-1-1: {WORDS}"


RESTARTED = {
    "ready": False,
    "terminating": True,
    "container": {
        "state": {"running": {}},
        "restartCount": 1,
        "lastState": {"terminated": {"exitCode": 1, "message": '{"reason": "OutOfMemory", "message": "KV cache"}'}},
    },
}


def test_a_group_that_is_made_anew_keeps_its_reason_until_it_serves(looked, group):
    """LeaderWorkerSet deletes it in the moment in which its container has ended."""
    _, first = looked(group(0), group(1, leader={"ready": False, "terminating": True}, worker=RESTARTED))
    assert ready(first) == ("False", Reason.OUT_OF_MEMORY, "chat-group-1-1: KV cache (restarted 1 times)")
    starts = {"ready": False}
    _, again = looked(group(0), group(1, leader=starts, worker=starts), previous=first)
    assert ready(again) == ready(first)
    _, waits = looked(group(0), group(1, leader=starts, worker=starts | {"conditions": HOMELESS}), previous=first)
    assert ready(waits)[1] == Reason.UNSCHEDULABLE
    _, serves = looked(group(0), group(1), previous=first)
    assert ready(serves)[0] == "True"
    _, edited = looked(group(0), group(1, leader=starts, worker=starts), previous=replaced(first))
    assert ready(edited)[1] == Reason.STARTING


def replaced(status):
    """The same, of an older spec."""
    older = tuple(item.model_copy(update={"observed_generation": 0}) for item in status.conditions)
    return status.model_copy(update={"conditions": older})


def test_a_drain_of_a_group_is_no_failure(looked, group):
    gone = {"ready": False, "terminating": True, "container": {"state": {"terminated": {"exitCode": 143}}}}
    _, status = looked(group(0), group(1, leader=gone, worker=gone), replicas=1)
    assert ready(status) == ("True", Reason.READY, "1 of 1 replicas serve")


def test_a_worker_that_has_lost_its_leader_is_the_echo_of_another_end(looked, group):
    """On a scale-down the leader goes first; after a crash it is the leader that knows why."""

    def ended(reason):
        told = f'{{"reason": "{reason}", "message": "words of {reason}"}}'
        return {"ready": False, "container": {"state": {"terminated": {"exitCode": 2, "message": told}}}}

    _, fewer = looked(group(0), group(1, leader={"terminating": True}, worker=ended("LeaderGone")), replicas=1)
    assert ready(fewer) == ("True", Reason.READY, "1 of 1 replicas serve")
    _, crashed = looked(group(0), group(1, leader=ended("EngineFailed"), worker=ended("LeaderGone")))
    assert ready(crashed) == ("False", Reason.ENGINE_FAILED, "chat-group-1: words of EngineFailed")
    _, alone = looked(group(0), group(1, leader={"ready": False}, worker=ended("LeaderGone")))
    assert ready(alone)[1] == Reason.LEADER_GONE


# --- scaling and rollouts ---------------------------------------------------------------------------------------------


def kinds(steps):
    return [slot(step.manifest, OWNER.name) for step in steps]


def test_fewer_groups_are_wanted_without_a_word_on_which(looked, group):
    """LeaderWorkerSet takes those with the highest numbers."""
    proposal, _ = looked(group(0), group(1), replicas=1)
    assert proposal.plan.marks == ()
    (groups,) = [step.manifest for step in proposal.plan.steps if step.manifest["kind"] == "LeaderWorkerSet"]
    assert groups["spec"]["replicas"] == 1


def test_autoscaling_goes_on_from_the_groups_that_there_are(looked, group, raw_groups):
    three = {GROUPS: raw_groups(3)}
    proposal, _ = looked(group(0), group(1), group(2), children=three, replicas=None, autoscaling=SCALED)
    assert proposal.desired == 3


@pytest.mark.parametrize("waits", ["leader", "worker"])
def test_a_rollout_without_a_free_node_goes_on_in_place(looked, group, raw_groups, waits):
    waiting = {waits: {"ready": False, "conditions": HOMELESS}}
    new = group(2, revision="r2", **{"leader": {"ready": False}, "worker": {"ready": False}} | waiting)
    old = [group(0), group(1)]
    for leader, workers in (*old, new):
        for raw in (leader, *workers):
            raw["spec"] = {"containers": [{"resources": {"requests": {"nvidia.com/gpu": "8"}}}]}
    proposal, _ = looked(*old, new, children={GROUPS: raw_groups(2, revision="r2")})
    (step,) = [step for step in proposal.plan.steps if step.manifest["kind"] == "LeaderWorkerSet"]
    rolling = step.manifest["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]
    assert (rolling["maxUnavailable"], rolling["maxSurge"]) == (1, 0)


def test_a_paused_one_is_left_as_it_is(looked, group, raw_groups):
    proposal, status = looked(group(0), children={GROUPS: raw_groups(3)}, paused=True)
    assert (proposal.plan.steps, proposal.desired) == ((), 3)
    assert ready(status)[2] == "1 of 3 replicas serve"


def test_an_idle_one_has_no_group_and_its_service_leads_to_the_activator(looked, raw_groups, raw_deployment):
    """Scale to zero asks nothing of LeaderWorkerSet but the number."""
    zero = SCALED | {"scaleToZero": {"idleAfter": "1m"}}
    activator = raw_deployment(1)
    activator["metadata"] |= {"name": "chat-activator", "labels": {"octavo.dev/modelserver": "chat"}}
    there = {GROUPS: raw_groups(0), "Deployment-activator": activator}
    rested = Scaler(0, ScalerMemory(since=NOW - 1000, active_at=NOW - 500, seen=NOW - 1))
    proposal, status = looked(children=there, scaler=rested, replicas=None, autoscaling=zero)
    assert proposal.desired == 0
    assert ready(status)[:2] == ("True", Reason.SCALED_TO_ZERO)
    written = {slot(step.manifest, OWNER.name): step.manifest for step in proposal.plan.steps}
    assert written["Service"]["spec"]["selector"] == {"octavo.dev/modelserver": "chat.activator"}
    assert written["Service-replicas"]["spec"]["selector"] == {"octavo.dev/modelserver": "chat"}
    assert written[GROUPS]["spec"]["replicas"] == 0


# --- from one kind to the other ---------------------------------------------------------------------------------------


def owned(raw):
    """As the API server has it, controlled by our ModelServer."""
    reference = {"uid": OWNER.uid, "name": OWNER.name, "controller": True}
    raw["metadata"] |= {"ownerReferences": [reference], "uid": "x", "resourceVersion": "7"}
    return raw


def taken_up(plan):
    """What was made, as its controller has seen it."""
    return {slot(step.manifest, OWNER.name): step.manifest | {"status": {"replicas": 1}} for step in plan.steps}


def test_a_single_replica_stays_until_the_group_is_taken_up_and_goes_then(looked, raw_deployment, raw_pod):
    single, serving = {"Deployment": owned(raw_deployment(1))}, [raw_pod("chat-1", ready=True)]
    first, status = looked(children=single, more=serving, replicas=1)
    assert GROUPS in kinds(first.plan.steps)
    assert status.ready_replicas == 1
    made = taken_up(first.plan)
    unseen = made | {GROUPS: made[GROUPS] | {"status": {}}}
    second, _ = looked(children=single | unseen, more=serving, replicas=1)
    for plan in (first.plan, second.plan):
        assert kinds(plan.removals) == []
        assert plan.awaited["kind"] == "LeaderWorkerSet"
    third, status = looked(children=single | made, more=serving, replicas=1)
    assert kinds(third.plan.removals) == ["Deployment"]
    assert third.plan.awaited is None
    assert ready(status)[1:] == (Reason.ROLLING_OUT, "0 of 1 replicas updated, 1 serve")


def test_a_group_stays_until_the_single_replica_is_taken_up_and_goes_then(looked, children):
    grouped = {place: owned(raw) for place, raw in children(1).items()}
    back = {"accelerator": NODES["accelerator"] | {"nodes": 1}, "replicas": 1}
    first, _ = looked(children=grouped, **back)
    assert "Deployment" in kinds(first.plan.steps)
    assert kinds(first.plan.removals) == []
    second, _ = looked(children=grouped | taken_up(first.plan), **back)
    assert sorted(kinds(second.plan.removals)) == [GROUPS, "Service-group"]


def test_somebody_elses_group_lets_nothing_go(looked, raw_deployment):
    foreign = {"kind": "LeaderWorkerSet", "metadata": {"name": "chat-group", "namespace": "default"}, "spec": {}}
    foreign["spec"] = {"replicas": 1, "leaderWorkerTemplate": {}}
    proposal, _ = looked(children={"Deployment": owned(raw_deployment(1)), GROUPS: foreign})
    assert proposal.failure.reason == Reason.NAME_TAKEN
    assert kinds(proposal.plan.removals) == []


def test_without_the_kind_nothing_is_made_and_nothing_goes(looked, raw_deployment, raw_pod):
    bare = replace(INSTALLED, served=frozenset())
    proposal, status = looked(
        children={"Deployment": owned(raw_deployment(3))}, more=[raw_pod(ready=True)], defaults=bare
    )
    assert (proposal.plan.steps, proposal.plan.removals, proposal.desired) == ((), (), 3)
    _, reason, message = ready(status)
    assert reason == Reason.KIND_MISSING
    assert message.startswith("accelerator.nodes needs LeaderWorkerSet of leaderworkerset.x-k8s.io/v1")
    assert status.condition(Condition.STALLED) is not None

"""Conditions and the rest of the status, as tables: what is there -> what is said."""

import json
from dataclasses import replace

import pytest

from octavo_operator.core.autoscale import Decision
from octavo_operator.core.conditions import Failure
from octavo_operator.core.desired import Scaler
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.names import Condition, Reason
from octavo_operator.core.plan import Plan
from octavo_operator.core.proposal import Proposal, facts_of
from octavo_operator.core.server import parse_server, parse_status
from octavo_operator.core.status import NOISE_PERIOD_SECONDS, compute_status, worth_writing
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Signals, Trouble

NOW = 1_800_000_000.0
IDLE = Signals(ready=0, unknown=0)
AUTOSCALING = {"minReplicas": 1, "maxReplicas": 4, "targets": {"waitingPerReplica": 2}}


@pytest.fixture
def status_of(raw_server):
    """The status of a ModelServer with these children and pods."""

    def compute(
        deployment=None,
        pods=(),
        *,
        desired=1,
        signals=IDLE,
        decision=None,
        failure=None,
        previous=None,
        now=NOW,
        generation=1,
        trouble=None,
        **spec,
    ):
        server = parse_server(raw_server(generation=generation, **spec))
        proposal = Proposal(server, Plan(), desired, Scaler(None, ScalerMemory(0)), decision, signals, None)
        children = {"Deployment": deployment} if deployment else {}
        before = previous or ModelServerStatus()
        facts = facts_of(proposal, failure, children, tuple(pods), before, trouble=trouble)
        return compute_status(server.owner, server.spec, facts, signals=signals, decision=decision, now=now)

    return compute


def summary(status):
    """Ready, Reconciling, Stalled and the reason, as in the table of conditions.py."""
    ready = status.condition(Condition.READY)
    there = [kind for kind in (Condition.RECONCILING, Condition.STALLED) if status.condition(kind)]
    return (ready.status, there, ready.reason)


def test_the_first_status_says_everything(status_of):
    """Kstatus takes an object without conditions for done."""
    status = status_of()
    assert {item.type for item in status.conditions} == {
        "Ready",
        "Reconciling",
        "Available",
        "Progressing",
        "ScalingActive",
        "ScalingLimited",
        "MetricsFresh",
        "CapacityAvailable",
    }
    assert all(item.reason and item.message and item.observed_generation == 1 for item in status.conditions)
    assert summary(status) == ("False", ["Reconciling"], Reason.CREATING)


def test_ready_is_true_when_every_replica_serves(status_of, raw_deployment, raw_pod):
    status = status_of(raw_deployment(2), [raw_pod("a", ready=True), raw_pod("b", ready=True)], desired=2, replicas=2)
    assert summary(status) == ("True", [], Reason.READY)
    assert status.condition(Condition.READY).message == "2 of 2 replicas serve"
    assert (status.replicas, status.ready_replicas, status.updated_replicas, status.desired_replicas) == (2, 2, 2, 2)


def crash(restarts=3):
    last = {"terminated": {"exitCode": 1, "reason": "Error"}}
    return {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last, "restartCount": restarts}


def test_ready_is_false_while_a_container_crash_loops(status_of, raw_deployment, raw_pod):
    pods = [raw_pod("a", ready=True), raw_pod("b", container=crash())]
    status = status_of(raw_deployment(2, ready=1), pods, desired=2, replicas=2)
    assert summary(status) == ("False", ["Stalled"], Reason.CRASH_LOOP)
    assert status.condition(Condition.AVAILABLE).status == "True"
    assert status.condition(Condition.PROGRESSING).status == "False"


def test_a_surplus_replica_that_crashes_is_told_too(status_of, raw_deployment, raw_pod):
    """MinReplicas is met, and yet something is wrong."""
    pods = [raw_pod("a", ready=True), raw_pod("b", container=crash())]
    status = status_of(raw_deployment(2, ready=1), pods, desired=2, autoscaling=AUTOSCALING)
    assert summary(status) == ("False", ["Stalled"], Reason.CRASH_LOOP)


def refused(raw_pod, number):
    pod = raw_pod(f"refused-{number}", created=f"2026-01-02T00:00:0{number}Z")
    pod["status"] = {"phase": "Failed", "reason": "OutOfnvidia.com/gpu", "message": "Node didn't have enough resource"}
    return pod


def test_a_node_that_refuses_a_replica_is_told_where_one_is_missing(status_of, raw_deployment, raw_pod):
    serving = raw_pod("a", ready=True, container={"state": {"running": {}}})
    status = status_of(raw_deployment(2, ready=1), [serving, refused(raw_pod, 1)], desired=2, replicas=2)
    assert summary(status) == ("False", ["Reconciling"], Reason.ENDED_BY_NODE)
    assert "OutOfnvidia.com/gpu: Node didn't have enough resource" in status.condition(Condition.READY).message
    enough = status_of(raw_deployment(1), [serving, refused(raw_pod, 1)], desired=1, replicas=1)
    assert summary(enough) == ("True", [], Reason.READY)


def test_a_surplus_replica_is_told_only_where_nodes_refuse_it_again_and_again(status_of, raw_deployment, raw_pod):
    pods = [raw_pod("a", ready=True), *(refused(raw_pod, number) for number in range(3))]
    once = status_of(raw_deployment(2, ready=1), pods[:2], desired=2, autoscaling=AUTOSCALING)
    assert summary(once) == ("True", [], Reason.READY)
    often = status_of(raw_deployment(2, ready=1), pods, desired=2, autoscaling=AUTOSCALING)
    assert summary(often) == ("False", ["Stalled"], Reason.ENDED_BY_NODE)


def test_a_surplus_replica_that_starts_or_waits_for_a_node_is_no_reason(status_of, raw_deployment, raw_pod):
    pending = raw_pod("b", conditions={"PodScheduled": {"status": "False", "message": "no nodes"}})
    status = status_of(
        raw_deployment(2, ready=1), [raw_pod("a", ready=True), pending], desired=2, autoscaling=AUTOSCALING
    )
    assert summary(status) == ("True", [], Reason.READY)
    assert status.condition(Condition.PROGRESSING).reason == Reason.SCALING_UP


@pytest.mark.parametrize(
    ("counts", "pods", "expected"),
    [
        ({"ready": 0}, [{}], ("False", ["Reconciling"], Reason.STARTING)),
        ({"replicas": 0}, [], ("False", ["Reconciling"], Reason.STARTING)),
        (
            {"replicas": 2, "updated": 1, "ready": 1},
            [{"ready": True}, {}],
            ("False", ["Reconciling"], Reason.ROLLING_OUT),
        ),
        (
            {"ready": 0},
            [{"conditions": {"PodScheduled": {"status": "False", "message": "no nodes"}}}],
            ("False", ["Reconciling"], Reason.UNSCHEDULABLE),
        ),
        (
            {"ready": 0},
            [{"container": {"state": {"running": {}}, "started": True}}],
            ("False", ["Reconciling"], Reason.NOT_READY),
        ),
    ],
    ids=["starting", "no pod yet", "rolling out", "no node", "probe fails"],
)
def test_why_it_is_not_ready_yet(status_of, raw_deployment, raw_pod, *, counts, pods, expected):
    named = [raw_pod(f"p{index}", **pod) for index, pod in enumerate(pods)]
    assert summary(status_of(raw_deployment(1, **counts), named)) == expected


def test_a_pod_that_was_ready_only_just_now_is_no_replica_that_serves(status_of, raw_deployment, raw_pod):
    """kube-proxy learns of it a moment later; until then a new connection is refused."""
    just_now = status_of(raw_deployment(1, available=0), [raw_pod(ready=True)])
    assert summary(just_now) == ("False", ["Reconciling"], Reason.STARTING)
    assert just_now.ready_replicas == 0
    assert just_now.condition(Condition.AVAILABLE).status == "False"
    a_second_one = status_of(
        raw_deployment(2, available=1), [raw_pod("a", ready=True), raw_pod("b", ready=True)], desired=2
    )
    assert a_second_one.condition(Condition.PROGRESSING).reason == Reason.SCALING_UP


def test_the_old_revisions_troubles_are_forgotten_once_the_spec_is_fixed(status_of, raw_deployment, raw_pod):
    """No pod of the new revision exists yet; the crashing one is of the old."""
    status = status_of(raw_deployment(1, replicas=1, updated=0, ready=0, revision="r2"), [raw_pod(container=crash())])
    assert summary(status) == ("False", ["Reconciling"], Reason.ROLLING_OUT)


def test_a_deployment_that_was_not_looked_at_yet_changes_nothing(status_of, raw_deployment, raw_pod):
    """Every scaling step bumps the Deployment's generation; Ready must not flicker each time."""
    pods = [raw_pod(ready=True)]
    before = status_of(raw_deployment(1), pods)
    behind = raw_deployment(2, replicas=1, ready=1)
    behind["metadata"]["generation"] = 2
    after = status_of(behind, pods, desired=2, previous=before, autoscaling=AUTOSCALING)
    assert summary(after) == summary(before) == ("True", [], Reason.READY)
    edited = status_of(behind, pods, desired=2, previous=before, generation=2)
    assert summary(edited) == ("False", ["Reconciling"], Reason.ROLLING_OUT)


def test_what_cannot_be_written_is_stalled(status_of, raw_deployment):
    failure = Failure(Reason.APPLY_REJECTED, "admission webhook says no")
    status = status_of(raw_deployment(1), failure=failure)
    assert summary(status) == ("False", ["Stalled"], Reason.APPLY_REJECTED)
    assert status.condition(Condition.STALLED).message == "admission webhook says no"


def test_a_child_that_cannot_be_written_yet_is_told_and_not_stalled(status_of):
    failure = Failure(Reason.APPLY_FAILED, "no free service address", stalled=False)
    assert summary(status_of(failure=failure)) == ("False", ["Reconciling"], Reason.APPLY_FAILED)


def test_refused_pods_and_missed_deadlines_are_stalled(status_of, raw_deployment):
    deployment = raw_deployment(1, replicas=0)
    refused = {"type": "ReplicaFailure", "status": "True", "message": "exceeded quota"}
    late = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "message": "late"}
    deployment["status"]["conditions"] = [refused, late]
    assert summary(status_of(deployment)) == ("False", ["Stalled"], Reason.PODS_REFUSED)
    deployment["status"]["conditions"] = [late]
    assert summary(status_of(deployment)) == ("False", ["Stalled"], Reason.PROGRESS_DEADLINE)


def test_zero_replicas_drain_and_are_then_ready(status_of, raw_deployment, raw_pod):
    draining = status_of(raw_deployment(0), [raw_pod(terminating=True)], desired=0, replicas=0)
    assert summary(draining) == ("False", ["Reconciling"], Reason.DRAINING)
    gone = status_of(raw_deployment(0), desired=0, replicas=0)
    assert summary(gone) == ("True", [], Reason.SCALED_TO_ZERO)
    assert gone.condition(Condition.AVAILABLE).status == "False"


def test_a_paused_server_is_neither_reconciling_nor_stalled(status_of, raw_deployment, raw_pod):
    status = status_of(raw_deployment(2, ready=1), [raw_pod()], desired=2, replicas=2, paused=True)
    assert summary(status) == ("False", [], Reason.STARTING)
    assert status.condition(Condition.PROGRESSING).reason == Reason.PAUSED
    assert status.condition(Condition.SCALING_ACTIVE).reason == Reason.PAUSED


def test_a_spec_that_does_not_parse_is_stalled_and_keeps_what_was_known(status_of, raw_deployment, raw_pod):
    before = status_of(raw_deployment(1), [raw_pod(ready=True)])
    failure = Failure(Reason.INVALID_SPEC, "spec.replicas: bad")
    status = status_of(raw_deployment(1), [raw_pod(ready=True)], failure=failure, previous=before, replicas="bad")
    assert summary(status) == ("False", ["Stalled"], Reason.INVALID_SPEC)
    assert status.model == before.model
    assert status.condition(Condition.AVAILABLE).status == "True"
    assert status.condition(Condition.SCALING_ACTIVE).reason == Reason.INVALID_SPEC


@pytest.mark.parametrize(
    ("counts", "desired", "pods", "reason"),
    [
        ({"replicas": 2}, 1, [], Reason.SCALING_DOWN),
        ({}, 1, [{"terminating": True}], Reason.DRAINING),
        ({}, 1, [], Reason.SETTLED),
        ({"replicas": 1}, 2, [], Reason.SCALING_UP),
    ],
)
def test_what_the_replicas_are_doing(status_of, raw_deployment, raw_pod, *, counts, desired, pods, reason):
    named = [raw_pod(f"p{index}", **pod) for index, pod in enumerate(pods)]
    status = status_of(raw_deployment(1, **counts), named, desired=desired)
    assert status.condition(Condition.PROGRESSING).reason == reason
    assert status.condition(Condition.PROGRESSING).status == ("False" if reason == Reason.SETTLED else "True")


def test_the_time_of_a_condition_moves_only_with_its_status(status_of, raw_deployment, raw_pod):
    first = status_of(raw_deployment(1), [raw_pod(ready=True)])
    later = status_of(raw_deployment(2, ready=1), [raw_pod()], desired=2, replicas=2, previous=first, now=NOW + 60)
    before, after = ({item.type: item.last_transition_time for item in status.conditions} for status in (first, later))
    assert after[Condition.READY] == "2027-01-15T08:01:00Z" != before[Condition.READY]
    assert after[Condition.AVAILABLE] == before[Condition.AVAILABLE]


# --- metrics and scaling ----------------------------------------------------------------------------------------------


def seen(ready=2, unknown=0, silent=0, **load):
    return Signals(ready, unknown, silent, **{"kv_capacity": 1000.0 * (ready - unknown), **load})


def decided(signals, reason=Reason.AS_NEEDED, *, limited_by=None):
    return Decision(2, reason, "because", ScalerMemory(0), limited_by, {"waitingPerReplica": 2}, signals)


@pytest.mark.parametrize(
    ("signals", "status", "reason"),
    [
        (seen(), "True", Reason.SCRAPED),
        (seen(unknown=1, silent=1), "False", Reason.METRICS_MISSING),
        (seen(unknown=1), "True", Reason.SCRAPED),
        (seen(unknown=2), "Unknown", Reason.SCRAPED),
        (seen(ready=0), "Unknown", Reason.NO_READY_REPLICAS),
    ],
    ids=["all", "one silent", "one new", "all new", "none ready"],
)
def test_metrics_are_fresh_when_every_replica_that_could_answered(status_of, raw_deployment, signals, status, reason):
    condition = status_of(raw_deployment(2), signals=signals, desired=2).condition(Condition.METRICS_FRESH)
    assert (condition.status, condition.reason) == (status, reason)


def test_what_the_source_of_the_samples_says_is_the_reason(status_of, raw_deployment):
    trouble = Trouble(Reason.PROMETHEUS_UNAVAILABLE, "Prometheus did not answer within 5 s")
    status = status_of(raw_deployment(2), signals=seen(unknown=2, silent=2), desired=2, trouble=trouble)
    condition = status.condition(Condition.METRICS_FRESH)
    assert (condition.status, condition.reason) == ("False", "PrometheusUnavailable")
    assert condition.message == "2 of 2 ready replicas gave no sample: Prometheus did not answer within 5 s"
    fine = status_of(raw_deployment(2), signals=seen(), desired=2, trouble=trouble)
    assert fine.condition(Condition.METRICS_FRESH).status == "True"


def test_right_after_a_restart_nothing_is_taken_back(status_of, raw_deployment, raw_pod):
    """No sample yet is no news: an operator's restart must not write."""
    pods = [raw_pod("a", ready=True), raw_pod("b", ready=True)]
    signals = seen(waiting=3, running=2, kv_used=500)
    spec = {"autoscaling": AUTOSCALING}
    before = status_of(raw_deployment(2), pods, desired=2, signals=signals, decision=decided(signals), **spec)
    blind = seen(unknown=2)
    after = status_of(
        raw_deployment(2),
        pods,
        desired=2,
        signals=blind,
        decision=decided(blind, Reason.METRICS_MISSING),
        previous=before,
        now=NOW + 5,
        **spec,
    )
    assert after == before


def test_a_working_autoscaler_says_what_it_thinks(status_of, raw_deployment):
    signals = seen()
    status = status_of(
        raw_deployment(2),
        desired=2,
        signals=signals,
        decision=decided(signals, Reason.KV_ABOVE_TARGET, limited_by=Reason.TOO_MANY_REPLICAS),
        autoscaling=AUTOSCALING,
    )
    active, limited = (status.condition(kind) for kind in (Condition.SCALING_ACTIVE, Condition.SCALING_LIMITED))
    assert (active.status, active.reason) == ("True", Reason.KV_ABOVE_TARGET)
    assert (limited.status, limited.reason, limited.message) == ("True", Reason.TOO_MANY_REPLICAS, "because")


def test_an_autoscaler_without_samples_is_not_active(status_of, raw_deployment):
    """G7: an autoscaler that does nothing while every health check is green is visible."""
    signals = seen(unknown=2, silent=2)
    decision = decided(signals, Reason.METRICS_MISSING)
    status = status_of(raw_deployment(2), desired=2, signals=signals, decision=decision, autoscaling=AUTOSCALING)
    active = status.condition(Condition.SCALING_ACTIVE)
    assert (active.status, active.reason) == ("False", Reason.METRICS_MISSING)
    assert status.load is None


def test_load_is_rounded(status_of, raw_deployment):
    signals = seen(waiting=7.4, running=1234.0, kv_used=1111.0)
    load = status_of(raw_deployment(2), signals=signals, desired=2).load
    assert (load.kv_utilization_percent, load.waiting, load.running) == (55, 7, 1200)
    assert (load.kv_tokens_in_use, load.kv_tokens_capacity) == (1100, 2000)


def test_noise_is_written_seldom_and_news_at_once(status_of, raw_deployment):
    quiet = status_of(raw_deployment(2), signals=seen(), desired=2)
    noisy = status_of(raw_deployment(2), signals=seen(waiting=5.0), desired=2, previous=quiet)
    news = status_of(raw_deployment(2, ready=1), signals=seen(), desired=2, previous=quiet)
    assert not worth_writing(quiet, quiet, since_last_write=1e9)
    assert not worth_writing(quiet, noisy, since_last_write=1)
    assert worth_writing(quiet, noisy, since_last_write=NOISE_PERIOD_SECONDS)
    assert worth_writing(quiet, news, since_last_write=0)


def test_a_status_survives_the_wire(status_of, raw_deployment):
    status = status_of(raw_deployment(2), signals=seen(waiting=5.0), desired=2)
    assert parse_status({"status": json.loads(json.dumps(status.wire()))}) == status


@pytest.mark.parametrize("raw", [{}, {"status": {}}, {"status": {"conditions": "broken"}}, {"status": {"later": 1}}])
def test_a_status_that_cannot_be_read_is_an_empty_one(raw):
    assert parse_status(raw) == ModelServerStatus()


def test_long_messages_are_cut_to_what_the_crd_allows(status_of, raw_deployment):
    status = status_of(raw_deployment(1), failure=Failure(Reason.APPLY_REJECTED, "x" * 5000))
    assert len(status.condition(Condition.READY).message) == 1024


def test_a_pods_long_words_are_cut_too(status_of, raw_deployment, raw_pod):
    words = {"state": {"waiting": {"reason": "ErrImagePull", "message": "y" * 5000}}}
    status = status_of(raw_deployment(1, ready=0), [raw_pod(container=words)])
    assert len(status.condition(Condition.STALLED).message) == 1024


def test_a_decision_without_a_change_is_not_recorded(status_of, raw_deployment):
    signals = seen()
    decision = replace(decided(signals), memory=ScalerMemory(0))
    status = status_of(raw_deployment(2), signals=signals, desired=2, decision=decision, autoscaling=AUTOSCALING)
    assert status.scaling is None


# --- rollouts ---------------------------------------------------------------------------------------------------------


def rolling(raw_deployment, *, in_place, **counts):
    raw = raw_deployment(2, revision="r2", **counts)
    surge = {"maxSurge": int(not in_place), "maxUnavailable": int(in_place)}
    raw["spec"]["strategy"] = {"type": "RollingUpdate", "rollingUpdate": surge}
    return raw


@pytest.mark.parametrize(
    ("in_place", "reason", "words"),
    [
        (True, Reason.REPLACING_IN_PLACE, "1 of 2 replicas updated, in place: an old one goes before a new one comes"),
        (False, Reason.ROLLING_OUT, "1 of 2 replicas updated"),
    ],
)
def test_a_rollout_says_whether_it_takes_capacity_away(status_of, raw_deployment, raw_pod, *, in_place, reason, words):
    pods = [raw_pod("a", ready=True), raw_pod("b", revision="r2")]
    deployment = rolling(raw_deployment, in_place=in_place, replicas=2, updated=1, ready=1)
    status = status_of(deployment, pods, desired=2, replicas=2)
    progressing = status.condition(Condition.PROGRESSING)
    assert (progressing.reason, progressing.message) == (reason, words)
    assert ("in place" in status.condition(Condition.READY).message) == in_place


def test_the_gap_of_a_single_replica_is_said_until_the_old_one_is_gone(status_of, raw_deployment, raw_pod):
    deployment = rolling(raw_deployment, in_place=True, replicas=1, updated=1, ready=0)
    pods = [raw_pod("a", terminating=True), raw_pod("b", revision="r2")]
    status = status_of(deployment, pods, desired=1, replicas=1)
    assert "nothing serves in between" in status.condition(Condition.PROGRESSING).message
    later = status_of(deployment, pods[1:], desired=1, replicas=1)
    assert later.condition(Condition.PROGRESSING).reason == Reason.SCALING_UP


def test_a_crash_in_a_rollout_says_what_serves_on(status_of, raw_deployment, raw_pod):
    pods = [raw_pod("a", ready=True), raw_pod("b", revision="r2", container=crash())]
    deployment = rolling(raw_deployment, in_place=True, replicas=2, updated=1, ready=1)
    status = status_of(deployment, pods, desired=2, replicas=2)
    assert summary(status) == ("False", ["Stalled"], Reason.CRASH_LOOP)
    assert "the rollout stops here, 1 old replicas serve on" in status.condition(Condition.READY).message
    assert status.condition(Condition.AVAILABLE).status == "True"

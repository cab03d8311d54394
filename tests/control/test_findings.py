"""CapacityAvailable, SLOMet, BudgetOK and ModelCached: what is there -> what is said."""

from dataclasses import replace

import pytest

from octavo_operator.core.autoscale import decide
from octavo_operator.core.conditions import Facts
from octavo_operator.core.findings import budget_ok, capacity_available, model_cached, slo_met
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.names import Reason
from octavo_operator.core.observed import live_pods, view_deployment
from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.startup import Progress
from octavo_operator.core.status_model import ConditionStatus, ModelServerStatus
from octavo_operator.core.window import Signals

WORDS = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
PENDING = {"PodScheduled": {"status": "False", "message": WORDS}}
MODEL = {"model": {"source": {"pvc": {"claimName": "models"}}}}
AUTOSCALING = {"maxReplicas": 4, "targets": {"waitingPerReplica": 2}}


@pytest.fixture
def capacity(raw_deployment):
    def find(*pods, refused=None):
        deployment = raw_deployment(1)
        if refused:
            failure = {"type": "ReplicaFailure", "status": "True", "message": refused}
            deployment["status"]["conditions"] = [failure]
        facts = Facts(1, 2, 1, False, None, view_deployment(deployment), live_pods(pods), ModelServerStatus())
        found = capacity_available(facts)
        return found.status, found.reason, found.message

    return find


def test_a_replica_beyond_those_that_must_serve_that_finds_no_node_is_told(capacity, raw_pod):
    found = capacity(raw_pod("a", ready=True), raw_pod("b", conditions=PENDING))
    assert found == (False, Reason.UNSCHEDULABLE, f"1 of 2 replicas wait for a node: {WORDS}")


def test_a_quota_is_told_in_its_words(capacity, raw_pod):
    assert capacity(raw_pod(ready=True), refused="exceeded quota: gpus") == (
        False,
        Reason.PODS_REFUSED,
        "exceeded quota: gpus",
    )


def test_there_is_room_for_those_that_run_and_nothing_is_known_without_any(capacity, raw_pod):
    assert capacity(raw_pod(ready=True))[:2] == (True, Reason.NO_REPLICA_WAITS)
    assert capacity()[:2] == (None, Reason.NO_REPLICAS)
    assert capacity(raw_pod(terminating=True, conditions=PENDING))[:2] == (None, Reason.NO_REPLICAS)


SIGNALS = Signals(ready=1, unknown=0)


@pytest.mark.parametrize(
    ("slo", "ttft", "itl", "expected"),
    [
        ({"ttftP95": "2s"}, 1.5, None, (True, Reason.WITHIN_LIMITS, "ttftP95 1500 ms of 2000 ms")),
        ({"ttftP95": "2s"}, 2.5, None, (False, Reason.SLO_VIOLATED, "ttftP95 2500 ms of 2000 ms")),
        ({"ttftP95": "2s", "itlP95": "80ms"}, 1.5, 0.09, (False, Reason.SLO_VIOLATED, "itlP95 90 ms of 80 ms")),
        ({"ttftP95": "2s", "itlP95": "80ms"}, 2.5, None, (False, Reason.SLO_VIOLATED, "ttftP95 2500 ms of 2000 ms")),
        (
            {"ttftP95": "2s", "itlP95": "80ms"},
            1.5,
            None,
            (None, Reason.TOO_FEW_REQUESTS, "too few requests in the last minute to say"),
        ),
    ],
)
def test_the_latencies_that_the_spec_names(raw_spec, slo, ttft, itl, expected):
    spec = parse_spec(raw_spec(autoscaling=AUTOSCALING | {"slo": slo}))
    (found,) = slo_met(spec, replace(SIGNALS, ttft_p95=ttft, itl_p95=itl))
    assert (found.status, found.reason, found.message) == expected


def test_the_wait_in_the_queue_is_one_of_them(raw_spec):
    spec = parse_spec(raw_spec(autoscaling=AUTOSCALING | {"slo": {"ttftP95": "2s", "queueWait": "500ms"}}))
    (found,) = slo_met(spec, replace(SIGNALS, ttft_p95=1.5, queue_wait_p95=0.6))
    assert (found.status, found.message) == (False, "queueWait 600 ms of 500 ms")
    (found,) = slo_met(spec, replace(SIGNALS, ttft_p95=1.5))
    assert (found.status, found.reason) == (None, Reason.TOO_FEW_REQUESTS)
    (found,) = slo_met(spec, replace(SIGNALS, ttft_p95=1.5, queue_wait_p95=0.4))
    assert found.message == "ttftP95 1500 ms of 2000 ms and queueWait 400 ms of 500 ms"


def test_without_latencies_in_the_spec_nothing_is_said(raw_spec):
    assert slo_met(parse_spec(raw_spec(autoscaling=AUTOSCALING)), SIGNALS) == []
    assert slo_met(parse_spec(raw_spec()), SIGNALS) == []
    assert slo_met(None, SIGNALS) == []


NOW = 1_800_000_000.0
BUDGET = {"maxCostPerHour": "10", "replicaCostPerHour": "2.5"}


def test_a_budget_that_pays_for_less_than_is_asked_for_is_told():
    spec = parse_spec({**MODEL, "autoscaling": {**AUTOSCALING, "maxReplicas": 9, "budget": BUDGET}})
    policy = ScalingPolicy.of(spec, spec.autoscaling, NOW)

    def found(waiting, replicas):
        busy = Signals(ready=replicas, unknown=0, waiting=waiting, running=replicas, kv_capacity=1000.0)
        return budget_ok(spec, decide(busy, policy, replicas, ScalerMemory(since=0.0), NOW))

    (enough,) = found(waiting=2, replicas=1)
    assert (enough.status, enough.reason) == (True, Reason.WITHIN_BUDGET)
    (short,) = found(waiting=40, replicas=4)
    assert (short.status, short.reason) == (False, Reason.BUDGET_EXHAUSTED)
    assert "allows for 4" in short.message
    assert budget_ok(spec, None) == []


def test_without_a_budget_nothing_is_said_of_one():
    spec = parse_spec({**MODEL, "autoscaling": AUTOSCALING})
    policy = ScalingPolicy.of(spec, spec.autoscaling, NOW)
    assert budget_ok(spec, decide(Signals(ready=1, unknown=0), policy, 1, ScalerMemory(since=0.0), NOW)) == []


@pytest.fixture
def cached(raw_deployment):
    model = {"source": {"hub": {"repo": "org/model"}}, "cache": {"pvc": {"claimName": "models"}}}
    spec = parse_spec({"model": model})

    def find(*pods, progress=None, previous=None):
        status = ModelServerStatus(conditions=(previous,) if previous else ())
        facts = Facts(1, 1, 1, False, None, view_deployment(raw_deployment(1)), live_pods(pods), status)
        (found,) = model_cached(spec, replace(facts, progress=progress), "chat")
        return found

    return find


def test_a_model_is_cached_when_a_replica_has_it_and_that_is_remembered(cached, raw_pod):
    assert cached().status is None
    fetching = cached(raw_pod(), progress=Progress("fetch", 45))
    assert (fetching.status, fetching.message) == (False, "fetching the model, 45 %")
    assert cached(raw_pod(), progress=Progress("process", 0)).status is None
    assert cached(raw_pod(), progress=Progress("weights", 10)).status is True
    ready = cached(raw_pod(ready=True))
    assert (ready.status, ready.message) == (True, "hf://org/model@main is on the claim models")
    assert cached(raw_pod(ready=True, revision="before")).status is None
    kept = {"status": "True", "reason": ready.reason, "message": ready.message, "observedGeneration": 1}
    before = {**kept, "type": ready.type, "lastTransitionTime": "2026-01-01T00:00:00Z"}
    assert cached(previous=ConditionStatus.model_validate(before)).status is True
    other = before | {"message": "hf://org/other@main is on the claim models"}
    assert cached(previous=ConditionStatus.model_validate(other)).status is None


def test_a_model_that_is_not_kept_on_a_claim_has_no_such_condition(raw_deployment):
    facts = Facts(1, 1, 1, False, None, view_deployment(raw_deployment(1)), (), ModelServerStatus())
    assert model_cached(parse_spec(MODEL), facts, "chat") == []

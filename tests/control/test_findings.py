"""CapacityAvailable and SLOMet: what is there -> what is said."""

from dataclasses import replace

import pytest

from octavo_operator.core.conditions import Facts
from octavo_operator.core.findings import capacity_available, slo_met
from octavo_operator.core.names import Reason
from octavo_operator.core.observed import live_pods, view_deployment
from octavo_operator.core.spec import parse_spec
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Signals

WORDS = "0/3 nodes are available: 3 Insufficient nvidia.com/gpu."
PENDING = {"PodScheduled": {"status": "False", "message": WORDS}}
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


def test_without_latencies_in_the_spec_nothing_is_said(raw_spec):
    assert slo_met(parse_spec(raw_spec(autoscaling=AUTOSCALING)), SIGNALS) == []
    assert slo_met(parse_spec(raw_spec()), SIGNALS) == []
    assert slo_met(None, SIGNALS) == []

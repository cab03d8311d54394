"""From observed objects to a plan: where the number of replicas comes from; a second look finds nothing to do."""

import pytest

from octavo_operator.core.autoscale import Change, ScalerMemory
from octavo_operator.core.conditions import Failure
from octavo_operator.core.exposition import Sample
from octavo_operator.core.names import Reason
from octavo_operator.core.proposal import Scaler, facts_of, fresh_scaler, parse_server, parse_status, propose
from octavo_operator.core.render import Defaults
from octavo_operator.core.status import compute_status
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Window

NOW = 1_800_000_000.0
DEFAULTS = Defaults(runtime_image="example.invalid/runtime:1")
AUTOSCALING = {
    "minReplicas": 2,
    "maxReplicas": 6,
    "targets": {"waitingPerReplica": 2},
    "behavior": {"scaleUp": {"stabilizationWindow": "0s"}, "scaleDown": {"stabilizationWindow": "0s"}},
}
SEASONED = Scaler(None, ScalerMemory(since=0.0))


@pytest.fixture
def proposed(raw_server):
    def run(children=(), pods=(), windows=None, *, scaler=SEASONED, previous=None, now=NOW, **spec):
        server = parse_server(raw_server(**spec))
        found = {child["kind"]: child for child in children}
        return propose(
            server,
            previous or ModelServerStatus(),
            children=found,
            pods=tuple(pods),
            windows=windows or {},
            scaler=scaler,
            defaults=DEFAULTS,
            now=now,
        )

    return run


def manifests(proposal):
    return [step.manifest for step in proposal.plan.steps]


def busy(waiting):
    return Window((Sample(NOW, running=1, waiting=waiting, kv_used=1, kv_capacity=1000),))


def test_without_any_number_there_is_one_replica(proposed):
    assert proposed().desired == 1


def test_a_fixed_number_is_taken(proposed):
    assert proposed(replicas=3).desired == 3
    assert proposed(replicas=0).desired == 0


def test_a_second_look_finds_nothing_to_do(proposed):
    first = proposed(replicas=3)
    assert [manifest["kind"] for manifest in manifests(first)] == ["Service", "Deployment"]
    assert proposed(manifests(first), replicas=3).plan.steps == ()


def test_an_autoscaled_server_starts_at_its_minimum(proposed):
    assert proposed(autoscaling=AUTOSCALING).desired == 2


def test_a_deployment_that_is_there_keeps_its_number(proposed, raw_deployment):
    """G9: no sample yet after a restart."""
    proposal = proposed([raw_deployment(5)], autoscaling=AUTOSCALING, scaler=Scaler(None, ScalerMemory(NOW)))
    assert proposal.desired == 5


def test_a_deleted_deployment_comes_back_as_large_as_it_was(proposed):
    assert proposed(autoscaling=AUTOSCALING, previous=ModelServerStatus(desired_replicas=4)).desired == 4


def test_what_was_decided_outweighs_an_edit_by_hand(proposed, raw_deployment):
    proposal = proposed([raw_deployment(6)], autoscaling=AUTOSCALING, scaler=Scaler(3, ScalerMemory(NOW)))
    assert proposal.desired == 3


def test_load_scales_up_and_is_recorded(proposed, raw_deployment, raw_pod):
    pods = [raw_pod("a", ready=True), raw_pod("b", ready=True)]
    windows = {"uid-a": busy(waiting=4), "uid-b": busy(waiting=4)}
    proposal = proposed([raw_deployment(2)], pods, windows, autoscaling=AUTOSCALING)
    assert proposal.desired == 4
    assert proposal.scaler.desired == 4
    facts = facts_of(proposal, None, {"Deployment": raw_deployment(4, replicas=2)}, tuple(pods), ModelServerStatus())
    server = proposal.server
    status = compute_status(
        server.owner, server.spec, facts, signals=proposal.signals, decision=proposal.decision, now=NOW
    )
    last = status.scaling.last_decision
    assert (last.from_, last.to, last.reason) == (2, 4, Reason.WAITING_ABOVE_TARGET)
    assert last.inputs.waiting == 8
    assert [(item.signal, item.replicas) for item in last.candidates] == [("waitingPerReplica", 4)]
    assert status.wire()["scaling"]["lastDecision"]["from"] == 2


def test_a_new_process_remembers_a_recent_change_and_waits_a_window():
    decision = {"time": "2027-01-15T07:59:55Z", "from": 2, "to": 6, "reason": "X", "message": "m"}
    status = parse_status({"status": {"scaling": {"lastDecision": decision}}})
    assert fresh_scaler(status, NOW) == Scaler(None, ScalerMemory(NOW, (), (Change(NOW - 5, 2, 6),)))
    assert fresh_scaler(status, NOW + 60) == Scaler(None, ScalerMemory(NOW + 60))


def test_turning_autoscaling_off_forgets_its_memory(proposed, raw_deployment):
    proposal = proposed(
        [raw_deployment(4)], replicas=1, scaler=Scaler(4, ScalerMemory(5.0, changes=(Change(6, 3, 4),)))
    )
    assert proposal.scaler == Scaler(None, ScalerMemory(5.0))
    assert proposal.desired == 1


def test_a_paused_server_is_left_as_it_is(proposed, raw_deployment):
    proposal = proposed([raw_deployment(5)], replicas=1, paused=True)
    assert (proposal.plan.steps, proposal.desired, proposal.failure) == ((), 5, None)


def test_a_spec_that_does_not_parse_changes_nothing(proposed, raw_deployment):
    proposal = proposed([raw_deployment(5)], replicas="x")
    assert (proposal.plan.steps, proposal.desired) == ((), 5)
    assert proposal.failure is not None
    assert proposal.failure.reason == Reason.INVALID_SPEC
    assert "spec.replicas" in proposal.failure.message


def test_a_taken_name_is_a_failure(proposed):
    foreign = {"kind": "Service", "metadata": {"name": "chat", "namespace": "default"}, "spec": {}}
    proposal = proposed([foreign])
    assert proposal.failure == Failure(
        Reason.NAME_TAKEN, "Service chat exists and does not belong to this ModelServer: rename one of them"
    )
    assert [manifest["kind"] for manifest in manifests(proposal)] == ["Deployment"]

"""From observed objects to a plan: where the number of replicas comes from; a second look finds nothing to do."""

from fractions import Fraction

import pytest

from octavo_operator.core.conditions import Failure
from octavo_operator.core.desired import Scaler, fresh_scaler
from octavo_operator.core.exposition import Sample
from octavo_operator.core.learn import Learned
from octavo_operator.core.manifest import Defaults
from octavo_operator.core.memory import Change, ScalerMemory
from octavo_operator.core.names import Reason
from octavo_operator.core.proposal import facts_of, propose
from octavo_operator.core.scaling_log import log_decision
from octavo_operator.core.server import parse_server, parse_status
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
    return Window().add(Sample(NOW, running=1, waiting=waiting, kv_used=1, kv_capacity=1000))


def test_without_any_number_there_is_one_replica(proposed):
    assert proposed().desired == 1


def test_a_fixed_number_is_taken(proposed):
    assert proposed(replicas=3).desired == 3
    assert proposed(replicas=0).desired == 0


def test_a_second_look_finds_nothing_to_do(proposed):
    first = proposed(replicas=3)
    assert [manifest["kind"] for manifest in manifests(first)][-1] == "Deployment"
    assert proposed(manifests(first), replicas=3).plan.steps == ()


def test_what_is_settled_is_not_looked_at_again_until_a_child_or_a_wish_changes(proposed, monkeypatch):
    children = [with_version(manifest, 10) for manifest in manifests(proposed(replicas=3))]
    settled = proposed(children, replicas=3)
    assert settled.scaler.settled is not None
    monkeypatch.setattr("octavo_operator.core.wanted.render", None)  # it would raise
    assert proposed(children, replicas=3, scaler=settled.scaler).plan == settled.plan
    monkeypatch.undo()
    for index, child in enumerate(children):
        drifted = [*children[:index], with_version({**child, "spec": {}}, 11), *children[index + 1 :]]
        assert proposed(drifted, replicas=3, scaler=settled.scaler).plan == proposed(drifted, replicas=3).plan
        lost = [*children[:index], *children[index + 1 :]]
        assert [step.reason for step in proposed(lost, replicas=3, scaler=settled.scaler).plan.steps] == ["Created"]
    assert proposed(children, replicas=4, scaler=settled.scaler).plan == proposed(children, replicas=4).plan


def test_a_status_is_no_reason_to_look_at_a_child_again_and_its_labels_are(proposed, monkeypatch):
    """The generation counts changes of a spec alone."""
    children = [with_version(manifest, 10, generation=1) for manifest in manifests(proposed(replicas=3))]
    settled = proposed(children, replicas=3)
    monkeypatch.setattr("octavo_operator.core.wanted.render", None)  # it would raise
    ready = [with_version({**child, "status": {"readyReplicas": 3}}, 11, generation=1) for child in children]
    assert proposed(ready, replicas=3, scaler=settled.scaler).plan == settled.plan
    monkeypatch.undo()
    for changes in ({"labels": {}}, {"annotations": {}}):
        edited = with_version(children[-1], 11, generation=1)
        edited = {**edited, "metadata": edited["metadata"] | changes}
        assert proposed([*children[:-1], edited], replicas=3, scaler=settled.scaler).plan.steps


def test_what_has_to_be_done_is_not_settled(proposed):
    first = proposed(replicas=3)
    assert first.scaler.settled is None
    assert proposed(replicas=3, scaler=first.scaler).plan == first.plan


def with_version(manifest, version, **metadata):
    return {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(version), **metadata}}


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
    written = {manifest["kind"] for manifest in manifests(proposal)}
    assert written == {"ServiceAccount", "NetworkPolicy", "Deployment"}
    two = proposed([foreign, {**foreign, "kind": "NetworkPolicy"}]).failure
    assert two is not None
    assert two.message.startswith("NetworkPolicy chat and Service chat exist and do not belong to this ModelServer")


# --- modes ------------------------------------------------------------------------------------------------------------


def loaded(raw_pod):
    pods = [raw_pod("a", ready=True), raw_pod("b", ready=True)]
    return pods, {"uid-a": busy(waiting=4), "uid-b": busy(waiting=4)}


def test_advice_is_not_carried_out(proposed, raw_deployment, raw_pod):
    pods, windows = loaded(raw_pod)
    advised = AUTOSCALING | {"mode": "Advisory"}
    proposal = proposed([raw_deployment(2)], pods, windows, autoscaling=advised)
    assert (proposal.desired, proposal.decision.replicas, proposal.scaler.desired) == (2, 4, None)
    again = proposed([raw_deployment(2)], pods, windows, scaler=proposal.scaler, autoscaling=advised)
    assert again.decision.replicas == 4


def test_advice_goes_with_a_fixed_number(proposed, raw_deployment, raw_pod):
    """G15: an external scaler writes spec.replicas, and nothing of ours works against it."""
    pods, windows = loaded(raw_pod)
    for number in (2, 3, 1):
        proposal = proposed(
            [raw_deployment(2)], pods, windows, autoscaling=AUTOSCALING | {"mode": "Advisory"}, replicas=number
        )
        assert proposal.desired == number
        assert all(manifest["kind"] != "ModelServer" for manifest in manifests(proposal))


def test_off_decides_nothing_and_keeps_what_is_there(proposed, raw_deployment, raw_pod):
    pods, windows = loaded(raw_pod)
    proposal = proposed([raw_deployment(3)], pods, windows, autoscaling=AUTOSCALING | {"mode": "Off"})
    assert (proposal.desired, proposal.decision) == (3, None)
    assert proposed(autoscaling=AUTOSCALING | {"mode": "Off"}).desired == AUTOSCALING["minReplicas"]


def test_replicas_without_a_node_are_counted_and_the_start_up_is_measured(proposed, raw_deployment, raw_pod):
    homeless = {"PodScheduled": {"status": "False", "message": "0/1 nodes are available"}}
    pods = [raw_pod("a", ready=True), raw_pod("b", conditions=homeless)]
    signals = proposed([raw_deployment(2)], pods, autoscaling=AUTOSCALING).signals
    assert (signals.ready, signals.unschedulable, signals.startup_p90) == (1, 1, 30.0)


@pytest.mark.parametrize(
    ("spec", "price"),
    [
        ({"accelerator": {"profile": "H100", "count": 2}}, Fraction("13.8")),
        ({"accelerator": {"profile": "H100", "count": 2}, "paused": True}, Fraction("13.8")),
        ({"accelerator": {"profile": "gone"}, "paused": True}, None),
        ({"accelerator": {"profile": "gone"}}, None),
        ({}, None),
    ],
)
def test_a_replica_has_its_price_also_while_nothing_is_done(proposed, spec, price):
    assert proposed(**spec).price == price


@pytest.mark.parametrize("budget", [{"maxCostPerHour": "9", "replicaCostPerHour": "3"}, {"maxGPUs": 7}])
def test_g17_a_roll_stays_within_the_budget(proposed, budget):
    """G17: where the budget allows for no further replica, an old one goes before a new one comes."""
    spec = {"autoscaling": AUTOSCALING | {"budget": budget}, "accelerator": {"count": 2}}

    def surge(desired):
        proposal = proposed([], scaler=Scaler(desired, ScalerMemory(NOW)), **spec)
        (deployment,) = [item for item in manifests(proposal) if item["kind"] == "Deployment"]
        return deployment["spec"]["replicas"] + deployment["spec"]["strategy"]["rollingUpdate"]["maxSurge"]

    assert (surge(2), surge(3)) == (3, 3)


def test_a_new_process_knows_what_a_replica_carries(proposed, raw_deployment, raw_pod):
    pods, windows = loaded(raw_pod)
    memory = ScalerMemory(0.0, learned=Learned(500.0, 40.0, NOW - 100))
    proposal = proposed([raw_deployment(2)], pods, windows, scaler=Scaler(None, memory), autoscaling=AUTOSCALING)
    log = log_decision(None, proposal.decision, advisory=False, now=NOW)
    scaler = fresh_scaler(ModelServerStatus(scaling=log), NOW + 100)
    assert scaler.memory.learned == Learned(500.0, 40.0, NOW)


def test_a_route_without_the_gateway_api_is_told_and_the_rest_is_made(proposed):
    proposal = proposed(networking={"httpRoute": {"parentRefs": [{"name": "public"}]}})
    assert proposal.failure.reason == Reason.KIND_MISSING
    assert "networking.httpRoute needs HTTPRoute of gateway.networking.k8s.io/v1" in proposal.failure.message
    assert "Deployment" in {manifest["kind"] for manifest in manifests(proposal)}

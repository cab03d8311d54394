"""A ModelServer that may have no replica, from objects to a plan: how many there are, and where its Service leads."""

import pytest

from octavo_operator.core import names
from octavo_operator.core.desired import Scaler, fresh_scaler
from octavo_operator.core.exposition import Sample
from octavo_operator.core.held import Held
from octavo_operator.core.manifest import Defaults, slot
from octavo_operator.core.memory import ScalerMemory
from octavo_operator.core.names import Condition, Reason
from octavo_operator.core.pace import DIRECT
from octavo_operator.core.proposal import facts_of, propose
from octavo_operator.core.server import parse_server, parse_status
from octavo_operator.core.spec_metrics import pace_of
from octavo_operator.core.status import compute_status
from octavo_operator.core.status_model import ModelServerStatus
from octavo_operator.core.window import Window

NOW = 1_800_000_000.0
DEFAULTS = Defaults(runtime_image="example.invalid/runtime:1", activator_image="example.invalid/operator:1")
ZERO = {
    "minReplicas": 1,
    "maxReplicas": 6,
    "targets": {"kvUtilizationPercent": 50},
    "scaleToZero": {"idleAfter": "1m"},
}
RESTED = ScalerMemory(since=NOW - 1000, active_at=NOW - 60, seen=NOW - 1)
ANSWERS = Held(0, 0, 60.0)


def calm(pace=DIRECT, ago=0):
    """A replica's window: nothing had happened for two minutes when the last sample was taken."""
    window = Window(pace=pace)
    for time in range(-120 - ago, 1 - ago, 5):
        window = window.add(
            Sample(NOW + time, running=0, waiting=0, kv_used=0, kv_capacity=1000, prompt_tokens=9, generation_tokens=9)
        )
    return window


def takes_over(raw_deployment, available):
    deployment = raw_deployment(1, available=available)
    deployment["metadata"] |= {"name": "chat-activator", "labels": names.labels("chat")}
    return deployment


@pytest.fixture
def proposed(raw_server, raw_pod, raw_deployment):
    def run(
        deployment=None,
        *,
        pods=0,
        scaler=None,
        held=None,
        deaf=False,
        activator=1,
        more=None,
        previous=None,
        defaults=DEFAULTS,
        now=NOW,
        window=calm,
        **spec,
    ):
        asleep = {"kind": "Service", "metadata": {"name": "chat", "labels": names.labels("chat")}}
        asleep["spec"] = {"selector": names.activator_selector("chat")}
        replicas = tuple(raw_pod(f"r{number}", ready=True) for number in range(pods))
        if deployment:
            deployment["metadata"]["labels"] = names.labels("chat")
        return propose(
            parse_server(raw_server(**{"autoscaling": ZERO} | spec)),
            previous or ModelServerStatus(),
            children=({"Deployment": deployment} if deployment else {})
            | ({"Service": asleep} if held or deaf else {})
            | {"Deployment-activator": takes_over(raw_deployment, activator)}
            | (more or {}),
            pods=replicas,
            windows={f"uid-r{number}": window() for number in range(pods)},
            scaler=scaler or Scaler(None, RESTED),
            defaults=defaults,
            now=now,
            held=held,
        )

    return run


def leads_to(proposal):
    (service,) = [step.manifest for step in proposal.plan.steps if slot(step.manifest, "chat") == "Service"]
    label = service["spec"]["selector"][names.LABEL_MODEL_SERVER]
    return "activator" if names.is_activators(label) else "replicas"


def outcome(proposal):
    return proposal.desired, leads_to(proposal)


def test_a_new_one_is_awake_and_its_first_requests_are_held(proposed):
    assert outcome(proposed()) == (1, "activator")


def test_the_service_leads_to_replicas_that_are_available(proposed, raw_deployment):
    busy = Scaler(1, ScalerMemory(since=NOW - 1000, active_at=NOW - 59, seen=NOW - 1))
    assert outcome(proposed(raw_deployment(1), pods=1, scaler=busy)) == (1, "replicas")
    assert outcome(proposed(raw_deployment(1, available=0), pods=1, scaler=busy)) == (1, "activator")


def test_it_goes_to_zero_in_this_order(proposed, raw_deployment):
    awake = raw_deployment(1)
    first = proposed(awake, pods=1)
    assert (*outcome(first), first.decision.reason) == (1, "activator", Reason.HANDING_OVER)
    second = proposed(awake, pods=1, held=Held(0, 0, 1.0))
    assert outcome(second) == (1, "activator")
    third = proposed(awake, pods=1, held=ANSWERS)
    assert (*outcome(third), third.decision.reason) == (0, "activator", Reason.IDLE)
    assert third.scaler.desired == 0


def test_the_service_never_leads_to_an_activator_that_is_not_there_while_a_replica_is(proposed, raw_deployment):
    """An idle pool would be unreachable, and idle for ever."""
    absent = proposed(raw_deployment(1), pods=1, activator=0)
    assert (*outcome(absent), absent.signals.deaf) == (1, "replicas", True)
    gone_amid_handover = proposed(raw_deployment(1), pods=1, activator=0, held=ANSWERS)
    assert outcome(gone_amid_handover) == (1, "replicas")
    starting = proposed(raw_deployment(1, available=0), pods=1, activator=0)
    assert outcome(starting) == (1, "replicas")
    assert outcome(proposed(raw_deployment(0), activator=0)) == (0, "activator"), "nobody else is there"


def test_what_an_activator_says_counts_also_when_it_is_not_called_available(proposed, raw_deployment):
    woken = proposed(raw_deployment(0), activator=0, held=Held(1, 10, 60.0))
    assert (woken.desired, woken.signals.activated) == (1, None)


BY_PROMETHEUS = ZERO | {"metrics": {"source": "Prometheus"}}


@pytest.mark.parametrize(
    ("ago", "answered", "expected"),
    [(12, 16.9, (1, Reason.HANDING_OVER)), (12, 17.0, (0, Reason.IDLE)), (40, 60.0, (1, Reason.METRICS_MISSING))],
    ids=["samples from before the hand-over", "from after it", "none that is fresh"],
)
def test_by_prometheus_it_goes_when_samples_from_after_the_handover_say_so(
    proposed, raw_deployment, ago, answered, expected
):
    proposal = proposed(
        raw_deployment(1),
        pods=1,
        held=Held(0, 0, answered),
        window=lambda: calm(pace_of(30), ago),
        autoscaling=BY_PROMETHEUS,
    )
    assert (proposal.desired, proposal.decision.reason) == expected


def test_by_prometheus_a_held_request_wakes_although_there_is_nothing_to_ask_it_for(proposed, raw_deployment):
    woken = proposed(raw_deployment(0), scaler=Scaler(0, RESTED), held=Held(1, 10, 60.0), autoscaling=BY_PROMETHEUS)
    assert (*outcome(woken), woken.decision.reason) == (1, "activator", Reason.WOKEN)
    unseen = proposed(raw_deployment(1), pods=1, scaler=woken.scaler, window=Window, autoscaling=BY_PROMETHEUS)
    assert outcome(unseen) == (1, "replicas")


def test_a_request_during_the_handover_ends_it(proposed, raw_deployment):
    proposal = proposed(raw_deployment(1), pods=1, held=Held(1, 10, 60.0))
    assert outcome(proposal) == (1, "replicas")
    assert proposal.scaler.memory.active_at == NOW


@pytest.mark.parametrize(
    "scaler", [Scaler(0, RESTED), Scaler(None, ScalerMemory(since=NOW))], ids=["same", "restarted"]
)
def test_at_zero_it_stays_and_wakes_for_a_held_request(proposed, raw_deployment, scaler):
    """Also for an operator that has just started: the number is on the Deployment, the request at the activator."""
    assert outcome(proposed(raw_deployment(0), scaler=scaler, held=ANSWERS)) == (0, "activator")
    woken = proposed(raw_deployment(0), scaler=scaler, held=Held(130, 10, 0.0))
    assert (*outcome(woken), woken.decision.reason) == (3, "activator", Reason.WOKEN)


def test_a_woken_replica_outlives_its_activator(proposed, raw_deployment):
    """The activator is gone before the first replica serves, and nothing says any more what was held."""
    woken = proposed(raw_deployment(0), scaler=Scaler(0, RESTED), held=Held(1, 10, 60.0))
    later = proposed(raw_deployment(1, replicas=0), scaler=woken.scaler, held=None)
    assert later.desired == 1
    restarted = proposed(raw_deployment(1, replicas=0), scaler=Scaler(None, ScalerMemory(since=NOW)), held=None)
    assert restarted.desired == 1


def test_a_deployment_that_was_deleted_at_zero_comes_back_with_none(proposed):
    asleep = ModelServerStatus(observed_generation=1, desired_replicas=0)
    assert proposed(previous=asleep, held=ANSWERS).desired == 0


def test_without_scale_to_zero_the_minimum_comes_back_and_the_service_leads_to_the_replicas(proposed, raw_deployment):
    plain = {key: value for key, value in ZERO.items() if key != "scaleToZero"}
    assert outcome(proposed(raw_deployment(0), scaler=Scaler(0, RESTED), autoscaling=plain)) == (1, "replicas")
    assert outcome(proposed(raw_deployment(0), autoscaling=None, replicas=0)) == (0, "replicas")


def test_without_an_image_for_the_activator_nothing_goes_to_zero_and_the_status_says_why(proposed, raw_deployment):
    nameless = Defaults(runtime_image="example.invalid/runtime:1")
    proposal = proposed(raw_deployment(1), pods=1, defaults=nameless)
    assert outcome(proposal) == (1, "replicas")
    assert "OCTAVO_ACTIVATOR_IMAGE" in proposal.failure.message


def test_the_activator_comes_with_its_services_address_and_stays_while_that_is_missing(proposed):
    def service(address):
        metadata = {"name": "chat-replicas", "labels": names.labels("chat")}
        return {"Service-replicas": {"kind": "Service", "metadata": metadata, "spec": {"clusterIP": address}}}

    def places(proposal):
        return [slot(step.manifest, "chat") for step in proposal.plan.steps]

    first = places(proposed())
    assert "Service-replicas" in first
    assert "Deployment-activator" not in first
    assert "Deployment-activator" not in places(proposed(more=service("None")))
    second = proposed(more=service("10.96.0.7"))
    (activator,) = [
        step.manifest for step in second.plan.steps if slot(step.manifest, "chat") == "Deployment-activator"
    ]
    alone = {"Deployment-activator": activator}
    assert proposed(more=alone).plan.removals == ()
    plain = {key: value for key, value in ZERO.items() if key != "scaleToZero"}
    for left in (alone, alone | service("10.96.0.7")):
        removed = {slot(step.manifest, "chat") for step in proposed(more=left, autoscaling=plain).plan.removals}
        assert "Deployment-activator" in removed


def status_after(proposal, deployment, pods=(), previous=None, now=NOW):
    facts = facts_of(
        proposal, proposal.failure, {"Deployment": deployment}, tuple(pods), previous or ModelServerStatus()
    )
    server = proposal.server
    return compute_status(
        server.owner, server.spec, facts, signals=proposal.signals, decision=proposal.decision, now=now
    )


def test_the_status_tells_the_whole_way(proposed, raw_deployment, raw_pod):
    gone = proposed(raw_deployment(1), pods=1, held=ANSWERS)
    draining = status_after(gone, raw_deployment(0, replicas=1), [raw_pod("r0", ready=True, terminating=True)])
    assert draining.condition(Condition.READY).reason == Reason.DRAINING
    last = draining.scaling.last_decision
    assert (last.from_, last.to, last.reason, last.inputs.held) == (1, 0, Reason.IDLE, None)

    asleep = proposed(raw_deployment(0), scaler=gone.scaler, held=ANSWERS, now=NOW + 20)
    slept = status_after(asleep, raw_deployment(0), previous=draining, now=NOW + 20)
    ready, active = slept.condition(Condition.READY), slept.condition(Condition.SCALING_ACTIVE)
    assert (ready.status, ready.reason, slept.desired_replicas) == ("True", Reason.SCALED_TO_ZERO, 0)
    assert (active.status, active.reason) == ("True", Reason.AT_ZERO)
    assert slept.condition(Condition.RECONCILING) is None

    woken = proposed(raw_deployment(0), scaler=asleep.scaler, held=Held(3, 99, 60.0), now=NOW + 40)
    waking = status_after(woken, raw_deployment(1, replicas=0), previous=slept, now=NOW + 40)
    assert waking.condition(Condition.READY).status == "False"
    assert waking.condition(Condition.RECONCILING) is not None
    assert (waking.scaling.last_decision.reason, waking.scaling.last_decision.inputs.held) == (Reason.WOKEN, 3)
    assert [past.reason for past in waking.scaling.history] == [Reason.IDLE]


def test_an_activator_that_is_silent_is_told(proposed, raw_deployment):
    deaf = ScalerMemory(since=NOW - 1000, active_at=NOW - 60, deaf_since=NOW - 600, seen=NOW - 1)
    proposal = proposed(raw_deployment(1), pods=1, scaler=Scaler(1, deaf), deaf=True)
    active = status_after(proposal, raw_deployment(1)).condition(Condition.SCALING_ACTIVE)
    assert (active.status, active.reason) == ("False", Reason.ACTIVATOR_SILENT)


def test_a_new_process_knows_from_the_record_what_a_replica_holds(proposed, raw_deployment):
    gone = proposed(raw_deployment(1), pods=1, held=ANSWERS)
    status = parse_status({"status": status_after(gone, raw_deployment(0)).wire()})
    scaler = fresh_scaler(status, NOW + 60)
    assert scaler.memory.capacity == 1000.0
    woken = proposed(raw_deployment(0), scaler=scaler, held=Held(1, 1500, 1.0))
    assert woken.desired == 3


def test_another_servers_service_of_the_name_is_no_way_to_replicas(proposed):
    """`chat` may sleep, and there is a ModelServer `chat-replicas`: its Service has the name of ours."""
    service = {"kind": "Service", "spec": {"clusterIP": "10.0.0.9", "selector": names.selector("chat-replicas")}}
    metadata = {"name": "chat-replicas", "namespace": "default", "labels": names.labels("chat-replicas")}
    proposal = proposed(more={"Service-replicas": service | {"metadata": metadata}})
    assert "Service chat-replicas" in proposal.plan.conflicts
    assert "Deployment-activator" not in {slot(step.manifest, "chat") for step in proposal.plan.steps}
    own = proposed(more={"Service-replicas": service | {"metadata": metadata | {"labels": names.labels("chat")}}})
    assert "Deployment-activator" in {slot(step.manifest, "chat") for step in own.plan.steps}

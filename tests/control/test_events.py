import pytest

from octavo_operator.core.events import Event, status_events, step_events
from octavo_operator.core.names import Reason
from octavo_operator.core.plan import Step
from octavo_operator.core.status_model import ConditionStatus, LastDecision, ModelServerStatus, Scaling
from octavo_operator.recorder import SAME_NOTE_SECONDS, SAME_REASON_BURST, SAME_REASON_SECONDS, Limiter, Recorder
from octavo_operator.store import Key

KEY = Key("default", "chat")


def status(ready, reason, *, stalled=False, last=None):
    def condition(kind, value):
        return ConditionStatus(
            type=kind,
            status=value,
            reason=reason,
            message=f"words about {reason}",
            observed_generation=1,
            last_transition_time="2026-01-01T00:00:00Z",
        )

    conditions = (condition("Ready", ready), *([condition("Stalled", "True")] if stalled else []))
    return ModelServerStatus(conditions=conditions, scaling=Scaling(last_decision=last) if last else None)


def decision(before, after, limited_by=None):
    return LastDecision.model_validate(
        {
            "time": "2026-01-01T00:00:00Z",
            "from": before,
            "to": after,
            "reason": "WaitingAboveTarget",
            "message": "9 waiting",
            "limitedBy": limited_by,
        }
    )


def test_becoming_ready_is_an_event():
    (event,) = status_events(status("False", Reason.STARTING), status("True", Reason.READY))
    assert (event.type, event.reason) == ("Normal", "Ready")


@pytest.mark.parametrize("reason", [Reason.CRASH_LOOP, Reason.MODEL_NOT_FOUND, Reason.INVALID_SPEC])
def test_what_will_not_pass_by_itself_is_a_warning(reason):
    (event,) = status_events(status("False", Reason.STARTING), status("False", reason, stalled=True))
    assert (event.type, event.reason, event.note) == ("Warning", reason, f"words about {reason}")


def test_waiting_for_a_node_is_a_warning_and_starting_is_none():
    assert status_events(ModelServerStatus(), status("False", Reason.UNSCHEDULABLE))[0].type == "Warning"
    assert status_events(ModelServerStatus(), status("False", Reason.STARTING)) == ()


def sampled(fresh, active, reason, fresh_reason=Reason.METRICS_MISSING):
    def condition(kind, value, why):
        return ConditionStatus(
            type=kind,
            status=value,
            reason=why,
            message=f"words about {why}",
            observed_generation=1,
            last_transition_time="2026-01-01T00:00:00Z",
        )

    found = (condition("MetricsFresh", fresh, fresh_reason), condition("ScalingActive", active, reason))
    return ModelServerStatus(conditions=found)


WORKS = sampled("True", "True", Reason.AS_NEEDED, Reason.SCRAPED)


@pytest.mark.parametrize(
    ("blind", "reason"),
    [
        (sampled("False", "False", Reason.METRICS_MISSING), Reason.METRICS_MISSING),
        (sampled("False", "True", Reason.AS_NEEDED, Reason.PROMETHEUS_UNAVAILABLE), Reason.PROMETHEUS_UNAVAILABLE),
        (sampled("Unknown", "False", Reason.METRICS_UNUSABLE), Reason.METRICS_UNUSABLE),
    ],
)
def test_an_autoscaler_that_drives_nothing_is_a_warning_once(blind, reason):
    """llm-d#2310: inert, while every health check is green."""
    (event,) = status_events(WORKS, blind)
    assert (event.type, event.reason, event.action) == ("Warning", reason, "Scale")
    assert event.note == f"words about {reason}"
    assert status_events(blind, blind) == status_events(blind, WORKS) == ()


def test_samples_that_nobody_decides_on_may_be_missing():
    fixed = sampled("True", "False", Reason.FIXED_REPLICAS, Reason.SCRAPED)
    assert status_events(fixed, sampled("False", "False", Reason.FIXED_REPLICAS)) == ()


def test_an_unchanged_status_is_no_event():
    same = status("False", Reason.CRASH_LOOP, stalled=True, last=decision(1, 2))
    assert status_events(same, same) == ()


def test_scaling_is_an_event_with_the_numbers_and_the_limit():
    before = status("True", Reason.READY, last=decision(2, 1))
    (up,) = status_events(before, status("True", Reason.READY, last=decision(1, 3, Reason.TOO_MANY_REPLICAS)))
    assert up.reason == Reason.SCALED_UP
    assert up.note == "1 -> 3 replicas, WaitingAboveTarget: 9 waiting (limited by TooManyReplicas)"
    (down,) = status_events(before, status("True", Reason.READY, last=decision(3, 2)))
    assert down.reason == Reason.SCALED_DOWN


def test_applied_steps_are_events_and_drift_is_a_warning():
    steps = [Step({}, Reason.CREATED, "Service chat created"), Step({}, Reason.DRIFT_REPAIRED, "Service chat put back")]
    assert [(event.type, event.reason) for event in step_events(steps)] == [
        ("Normal", "Created"),
        ("Warning", "DriftRepaired"),
    ]


def event(note="n", reason="R"):
    return Event("Normal", reason, "A", note)


def test_the_same_note_is_posted_once_in_a_while():
    limiter = Limiter()
    assert limiter.admits(KEY, event(), 0)
    assert not limiter.admits(KEY, event(), SAME_NOTE_SECONDS - 1)
    assert limiter.admits(KEY, event(), SAME_NOTE_SECONDS)


def test_one_reason_does_not_flood():
    limiter = Limiter()
    admitted = [limiter.admits(KEY, event(f"note {number}"), now=1) for number in range(10)]
    assert admitted.count(True) == SAME_REASON_BURST
    assert limiter.admits(KEY, event("later"), now=1 + SAME_REASON_SECONDS)


def test_reasons_and_servers_have_their_own_limits():
    limiter = Limiter()
    assert limiter.admits(KEY, event(), 0)
    assert limiter.admits(KEY, event(reason="S"), 0)
    assert limiter.admits(Key("other", "chat"), event(), 0)


def test_a_server_that_is_gone_is_forgotten():
    limiter = Limiter()
    limiter.admits(KEY, event(), 0)
    limiter.forget(KEY)
    assert limiter.admits(KEY, event(), 0)


def test_replicas_that_are_replaced_in_place_are_an_event_once():
    def progressing(reason):
        words = {
            "type": "Progressing",
            "status": "True",
            "reason": reason,
            "message": "1 of 2",
            "observedGeneration": 1,
        }
        condition = ConditionStatus.model_validate(words | {"lastTransitionTime": "2026-01-01T00:00:00Z"})
        return ModelServerStatus(conditions=(condition,))

    surging, in_place = progressing(Reason.ROLLING_OUT), progressing(Reason.REPLACING_IN_PLACE)
    (event,) = status_events(surging, in_place)
    assert (event.type, event.reason, event.note) == ("Normal", "ReplacingInPlace", "1 of 2")
    assert status_events(in_place, in_place) == ()
    assert status_events(in_place, surging) == ()


async def test_a_note_of_any_script_is_no_longer_than_the_api_server_takes():
    posted = []

    class Cluster:
        async def create_event(self, _, body):
            posted.append(body)

    server = {"metadata": {"uid": "u", "resourceVersion": "1"}}
    await Recorder(Cluster(), "test").record(KEY, server, [event("\u6a21\u578b" * 600)])
    assert 900 < len(posted[0]["note"].encode()) <= 1024

"""What a user should hear about: (previous status, new status, applied steps) -> events. Nothing for what did not
change.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from octavo_operator.core.names import NOT_SCALED, Condition, Reason
from octavo_operator.core.plan import Step
from octavo_operator.core.status_model import LastDecision, ModelServerStatus


@dataclass(frozen=True, slots=True)
class Event:
    """One event of events.k8s.io/v1; `action` is what the operator did, `note` is for people."""

    type: Literal["Normal", "Warning"]
    reason: str
    action: str
    note: str


def step_events(steps: Iterable[Step]) -> tuple[Event, ...]:
    """One event per applied child; drift is a warning, because somebody or something else writes there too."""
    return tuple(
        Event("Warning" if step.reason == Reason.DRIFT_REPAIRED else "Normal", step.reason, "Apply", step.message)
        for step in steps
    )


def status_events(previous: ModelServerStatus, new: ModelServerStatus) -> tuple[Event, ...]:
    """Scaling, an autoscaler that drives nothing, a rollout that takes capacity away, requests that a Gateway does not
    lead here, and changes of Ready.
    """
    scaling = _scaling_events(_last(previous), _last(new))
    return (
        *scaling,
        *_blind_events(previous, new),
        *_rollout_events(previous, new),
        *_route_events(previous, new),
        *_ready_events(previous, new),
    )


def cut_event(pod: str, requests: int) -> Event:
    """A replica that has ended has given up on some of its requests."""
    why = "their answers took longer than spec.drain.timeout, or than whoever ended it allowed"
    note = f"{pod} ended with {requests} requests cut: {why}"
    return Event("Warning", Reason.REQUESTS_CUT, "Drain", note)


def _last(status: ModelServerStatus) -> LastDecision | None:
    return status.scaling.last_decision if status.scaling else None


def _scaling_events(before: LastDecision | None, after: LastDecision | None) -> tuple[Event, ...]:
    if after is None or after == before:
        return ()
    changed = Reason.SCALED_UP if after.to > after.from_ else Reason.SCALED_DOWN
    reason = Reason.ADVISED if after.mode == "Advisory" else changed
    limit = f" (limited by {after.limited_by})" if after.limited_by else ""
    note = f"{after.from_} -> {after.to} replicas, {after.reason}: {after.message}{limit}"
    return (Event("Normal", reason, "Scale", note),)


def _blind_events(previous: ModelServerStatus, new: ModelServerStatus) -> tuple[Event, ...]:
    """Every replica serves and the autoscaler drives nothing (llm-d#2310): nobody looks at a condition then.

    Samples are missing, or, for a minute now, replicas answer with nothing that can be used.
    """
    before, after = previous.condition(Condition.SCALING_ACTIVE), new.condition(Condition.SCALING_ACTIVE)
    if after is None or after.reason in NOT_SCALED:
        return ()
    was, fresh = previous.condition(Condition.METRICS_FRESH), new.condition(Condition.METRICS_FRESH)
    missing = fresh is not None and fresh.status == "False" and (was is None or was.status != "False")
    useless = after.reason == Reason.METRICS_UNUSABLE and (before is None or before.reason != after.reason)
    told = [fresh] * missing + [after] * useless
    return tuple(Event("Warning", item.reason, "Scale", item.message) for item in told if item is not None)


def _rollout_events(previous: ModelServerStatus, new: ModelServerStatus) -> tuple[Event, ...]:
    before, after = previous.condition(Condition.PROGRESSING), new.condition(Condition.PROGRESSING)
    if after is None or after.reason != Reason.REPLACING_IN_PLACE or (before and before.reason == after.reason):
        return ()
    return (Event("Normal", after.reason, "Apply", after.message),)


def _route_events(previous: ModelServerStatus, new: ModelServerStatus) -> tuple[Event, ...]:
    before, after = previous.condition(Condition.ROUTED), new.condition(Condition.ROUTED)
    if after is None or after.status != "False" or (before and before.reason == after.reason):
        return ()
    return (Event("Warning", after.reason, "Route", after.message),)


def _ready_events(previous: ModelServerStatus, new: ModelServerStatus) -> tuple[Event, ...]:
    """Ready became true, or what keeps it from being ready is something that will not pass by itself."""
    before, after = previous.condition(Condition.READY), new.condition(Condition.READY)
    if after is None or (before and before.status == after.status and before.reason == after.reason):
        return ()
    if after.status == "True":
        return (Event("Normal", after.reason, "Reconcile", after.message),)
    if new.condition(Condition.STALLED) is not None or after.reason == Reason.UNSCHEDULABLE:
        return (Event("Warning", after.reason, "Reconcile", after.message),)
    return ()

"""The scaling part of the status: the last decision that was news, and at most ten before it.

mode       news
────       ────
Active     every change of the number of replicas
Advisory   another number than was advised last, at most once a minute
"""

from typing import Final

from octavo_operator.core.autoscale import Decision
from octavo_operator.core.clock import from_timestamp, to_timestamp
from octavo_operator.core.record import to_record
from octavo_operator.core.status_model import Candidate, DecisionInputs, LastDecision, PastDecision, Scaling
from octavo_operator.core.window import Signals

ADVICE_PERIOD_SECONDS: Final = 60.0
HISTORY_LENGTH: Final = 10
_MESSAGE_LIMIT: Final = 1024
_PAST_MESSAGE_LIMIT: Final = 256


def log_decision(log: Scaling | None, decision: Decision, *, advisory: bool, now: float) -> Scaling | None:
    """The log after one more decision; the same when it is no news."""
    last = log.last_decision if log else None
    if not (_is_advice(last, decision, now) if advisory else _is_change(decision, now)):
        return log
    past = [*(log.history if log else ()), *([_past(last)] if last else [])]
    return Scaling(last_decision=_entry(decision, advisory=advisory, now=now), history=tuple(past[-HISTORY_LENGTH:]))


def _is_change(decision: Decision, now: float) -> bool:
    changes = decision.memory.changes
    return bool(changes) and changes[-1].time == now


def _is_advice(last: LastDecision | None, decision: Decision, now: float) -> bool:
    before = decision.inputs.current if decision.inputs else decision.replicas
    advised = last.to if last and last.mode == "Advisory" else before
    if decision.replicas == advised:
        return False
    return last is None or not 0 <= now - from_timestamp(last.time) < ADVICE_PERIOD_SECONDS


def _entry(decision: Decision, *, advisory: bool, now: float) -> LastDecision:
    return LastDecision.model_validate(
        {
            "time": to_timestamp(now),
            "mode": "Advisory" if advisory else "Active",
            "from": decision.inputs.current if decision.inputs else decision.replicas,
            "to": decision.replicas,
            "reason": decision.reason,
            "limitedBy": decision.limited_by,
            "message": decision.message[:_MESSAGE_LIMIT],
            "inputs": _inputs(decision.signals),
            "candidates": tuple(
                Candidate(signal=signal, replicas=replicas) for signal, replicas in decision.candidates.items()
            ),
            "record": to_record(decision.inputs) if decision.inputs else None,
        }
    )


def _past(last: LastDecision) -> PastDecision:
    kept = last.model_dump(by_alias=True, include=set(PastDecision.model_fields))
    return PastDecision.model_validate(kept | {"message": last.message[:_PAST_MESSAGE_LIMIT]})


def _inputs(signals: Signals | None) -> DecisionInputs | None:
    if signals is None:
        return None
    return DecisionInputs(
        ready_replicas=signals.ready,
        unknown_replicas=signals.unknown,
        kv_utilization_percent=min(100, round(100 * signals.kv_utilization)),
        waiting=round(signals.waiting),
        running=round(signals.running),
        held=round(signals.held) or None,
        kv_tokens_in_use=round(signals.kv_used),
        kv_tokens_capacity=round(signals.kv_capacity),
        waiting_tokens=round(signals.waiting_tokens),
        prompt_tokens_per_second=round(signals.prompt_rate),
        ttft_p95_milliseconds=_milliseconds(signals.ttft_p95),
        itl_p95_milliseconds=_milliseconds(signals.itl_p95),
        queue_wait_p95_milliseconds=_milliseconds(signals.queue_wait_p95),
    )


def _milliseconds(seconds: float | None) -> int | None:
    return round(1000 * seconds) if seconds is not None else None

"""What one replica carries, as far as it was seen: the measured part of the status, which the autoscaler divides by."""

from octavo_operator.core.autoscale import Decision
from octavo_operator.core.memory import Recalled
from octavo_operator.core.status_model import Capacity
from octavo_operator.core.units import two_digits
from octavo_operator.core.window import Signals


def describe_capacity(decision: Decision | None, signals: Signals, previous: Capacity | None) -> Capacity | None:
    """The capacity of one replica; what was known stays while no replica gives a sample."""
    if signals.known == 0:
        return previous
    cache = signals.kv_capacity / signals.known
    recalled = decision.inputs.recalled if decision and decision.inputs else None
    learned = recalled.kv_tokens if recalled else None
    return Capacity(
        kv_cache_tokens=round(cache),
        kv_tokens=two_digits(min(cache, learned)) if learned is not None else None,
        prompt_tokens_per_second=_rate(recalled),
    )


def _rate(recalled: Recalled | None) -> int | None:
    seen = recalled.prompt_rate if recalled else None
    return two_digits(seen) if seen is not None else None

"""What the replicas cost now, and what a million tokens cost with them.

    price of a replica * replicas that are there              perHour: also those that start, idle or drain
    that / tokens that they compute in an hour at this load   perMillionTokens

So an idle replica makes tokens dear, and that is what it does.
"""

from fractions import Fraction

from octavo_operator.core.status_model import Cost
from octavo_operator.core.units import in_digits
from octavo_operator.core.window import Signals

_HOUR_DIGITS = 4
_TOKENS_DIGITS = 2


def describe_cost(price: Fraction | None, replicas: int, signals: Signals, previous: Cost | None) -> Cost | None:
    """The status' part on money; None where no price is known."""
    if price is None:
        return None
    hourly = float(price) * replicas
    return Cost(per_hour=in_digits(hourly, _HOUR_DIGITS), per_million_tokens=_of_tokens(hourly, signals, previous))


def _of_tokens(hourly: float, signals: Signals, previous: Cost | None) -> str | None:
    """None while nothing is computed, or by replicas that nobody has seen."""
    if signals.too_early:
        return previous.per_million_tokens if previous else None
    hour = 3600 * (signals.prompt_rate + signals.generation_rate)
    return in_digits(hourly / hour * 1e6, _TOKENS_DIGITS) if hour > 0 and not signals.unknown else None

"""What one replica carries, learned from replicas that had a queue, and how fast the load grows.

    KV tokens a replica holds while requests wait     it holds no more: slots, watermark or compute end before memory
    prompt tokens/s it computes while requests wait   it computes no more: a load that is bound by prefill shows here,
                                                      at 32 % of the KV cache (llm-d-workload-variant-autoscaler#662)
    a warm replica without a queue carries more       then so much can be carried

Sources: llm-d WVA V2 (supply seen while the queue is long, internal/engines/analyzers/saturation_v2). The trend is
least squares over two minutes, if a line explains them better than a jump from one level to another: a load that has
jumped is where it will be.
"""

from dataclasses import dataclass, replace
from itertools import accumulate
from statistics import fmean
from typing import Final

from octavo_operator.core.pace import RATE_SECONDS
from octavo_operator.core.window import Signals

LEARN_PERIOD_SECONDS: Final = 5.0
FORGET_SECONDS: Final = 7200.0
"""Longer than the longest stabilisation window; the mix of prompts and answers may be another one by then."""
_WEIGHT: Final = 0.2
_LEAST_WEIGHT: Final = 0.04
_FLOOR: Final = 0.05
"""Share of the KV capacity that a replica is trusted to hold, whatever was seen: a hung one must not teach 0."""

TREND_SECONDS: Final = 120.0
_KEPT_SECONDS: Final = TREND_SECONDS + RATE_SECONDS
"""What came to a replica that is gone is missing for a while, which is no trend of the load: it begins anew, and its
first points do not count."""
_TREND_POINTS: Final = 9
_TREND_ERRORS: Final = 3.0
"""A slope counts when it is more than so many standard errors away from 0: noise is not growth. Four points count as
one, for they overlap and prompts come in lumps."""
MOST_GROWTH: Final = 1.5


@dataclass(frozen=True, slots=True)
class Learned:
    """What one replica carries: KV tokens, prompt tokens per second; None while never seen at its limit.

    `looks`: how often one was, by this process. `proven_rate`: what one has computed without a queue until then.
    """

    kv_tokens: float | None = None
    prompt_rate: float | None = None
    time: float = 0.0
    looks: int = 0
    proven_rate: float | None = None


NOTHING_LEARNED: Final = Learned()


def learn(learned: Learned, signals: Signals, now: float) -> Learned:
    """What is known about a replica's limits after one more look."""
    if learned.time and now - learned.time > FORGET_SECONDS:
        learned = NOTHING_LEARNED
    if signals.saturated and now - learned.time >= LEARN_PERIOD_SECONDS:
        floor = _FLOOR * signals.kv_capacity / signals.known
        return Learned(
            kv_tokens=max(floor, _blend(learned.kv_tokens, signals.saturated_kv / signals.saturated)),
            prompt_rate=_rate(learned, signals.saturated_rate / signals.saturated),
            time=now,
            looks=learned.looks + 1,
        )
    return replace(
        learned,
        kv_tokens=_at_least(learned.kv_tokens, signals.busiest_kv),
        prompt_rate=_at_least(learned.prompt_rate, signals.busiest_rate),
        proven_rate=_proven(learned, signals) if learned.prompt_rate is None else None,
    )


def _blend(known: float | None, seen: float, looks: int = 0) -> float:
    """After many looks the mean of the last two minutes: prompts come in lumps."""
    weight = max(_LEAST_WEIGHT, 1 / (looks + 1)) if looks else _WEIGHT
    return seen if known is None else known + weight * (seen - known)


def _rate(learned: Learned, seen: float) -> float:
    """A first look is a short one: it does not take back what one has computed without a queue."""
    if learned.prompt_rate is None:
        return max(seen, learned.proven_rate or 0.0)
    return _blend(learned.prompt_rate, seen, learned.looks)


def _proven(learned: Learned, signals: Signals) -> float | None:
    return max(learned.proven_rate or 0.0, signals.busiest_rate) or None


def _at_least(known: float | None, proven: float) -> float | None:
    return None if known is None else max(known, proven)


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """Arriving prompt tokens per second at so many replicas."""

    time: float
    rate: float
    replicas: int


def follow(trend: tuple[TrendPoint, ...], signals: Signals, now: float) -> tuple[TrendPoint, ...]:
    """The trend with one more point, at most every 5 s."""
    if signals.known == 0 or signals.unknown:
        return ()
    kept = tuple(point for point in trend if now - _KEPT_SECONDS <= point.time < now)
    if kept and kept[-1].replicas > signals.known:
        kept = ()
    if signals.newest_rate is None or (kept and now - kept[-1].time < LEARN_PERIOD_SECONDS):
        return kept
    return (*kept, TrendPoint(now, signals.newest_rate, signals.known))


def growth(trend: tuple[TrendPoint, ...], ahead: float | None) -> float:
    """By what factor the arrivals grow within `ahead` seconds if they go on as now: 1 to 1.5, 1 while not certain."""
    settled = [point for point in trend if point.time > trend[0].time + RATE_SECONDS]
    if ahead is None or len(settled) < _TREND_POINTS:
        return 1.0
    times, rates = [point.time for point in settled], [point.rate for point in settled]
    middle, mean = fmean(times), fmean(rates)
    spread = sum((time - middle) ** 2 for time in times)
    slope = sum((time - middle) * (rate - mean) for time, rate in zip(times, rates, strict=True)) / spread
    present = mean + slope * (times[-1] - middle)
    rest = sum((rate - mean - slope * (time - middle)) ** 2 for time, rate in zip(times, rates, strict=True))
    error = (rest / (len(settled) * LEARN_PERIOD_SECONDS / RATE_SECONDS - 2) / spread) ** 0.5
    if present <= 0 or slope <= _TREND_ERRORS * error or _jump_rest(rates) < rest:
        return 1.0
    return min(MOST_GROWTH, 1.0 + slope * ahead / present)


def _jump_rest(rates: list[float]) -> float:
    """The squares that are left of the best jump from one level to another: less than of a line, and it was a jump."""
    total, squares, number = sum(rates), sum(rate * rate for rate in rates), len(rates)
    before = accumulate(rates[:-1])
    kept = max(part**2 / count + (total - part) ** 2 / (number - count) for count, part in enumerate(before, 1))
    return squares - kept

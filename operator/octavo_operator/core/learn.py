"""What one replica carries, learned from replicas that had a queue, and how fast the load grows.

    KV tokens a replica holds while requests wait     it holds no more: slots, watermark or compute end before memory
    prompt tokens/s it computes while requests wait   it computes no more: a load that is bound by prefill shows here,
                                                      at 32 % of the KV cache (llm-d-workload-variant-autoscaler#662)
    a warm replica without a queue carries more       then so much can be carried

Sources: llm-d WVA V2 (supply seen while the queue is long, internal/engines/analyzers/saturation_v2); the trend is
least squares over a minute.
"""

from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from octavo_operator.core.window import RATE_SECONDS, Signals

LEARN_PERIOD_SECONDS: Final = 5.0
FORGET_SECONDS: Final = 7200.0
"""Longer than the longest stabilisation window; the mix of prompts and answers may be another one by then."""
_WEIGHT: Final = 0.2
_FLOOR: Final = 0.05
"""Share of the KV capacity that a replica is trusted to hold, whatever was seen: a hung one must not teach 0."""

TREND_SECONDS: Final = 60.0
_KEPT_SECONDS: Final = TREND_SECONDS + RATE_SECONDS
"""While replicas come or go, the sum of their rates lags behind by the rate's window. That is no trend of the load, so
the trend begins anew, and its first points do not count."""
_TREND_POINTS: Final = 9
_TREND_ERRORS: Final = 3.0
"""A slope counts when it is more than so many standard errors away from 0: noise is not growth."""
MOST_GROWTH: Final = 1.5


@dataclass(frozen=True, slots=True)
class Learned:
    """What one replica carries: KV tokens, prompt tokens per second; None while never seen at its limit."""

    kv_tokens: float | None = None
    prompt_rate: float | None = None
    time: float = 0.0


NOTHING_LEARNED: Final = Learned()


def learn(learned: Learned, signals: Signals, now: float) -> Learned:
    """What is known about a replica's limits after one more look."""
    if learned.time and now - learned.time > FORGET_SECONDS:
        learned = NOTHING_LEARNED
    if signals.saturated and now - learned.time >= LEARN_PERIOD_SECONDS:
        floor = _FLOOR * signals.kv_capacity / signals.known
        return Learned(
            kv_tokens=max(floor, _blend(learned.kv_tokens, signals.saturated_kv / signals.saturated)),
            prompt_rate=_blend(learned.prompt_rate, signals.saturated_rate / signals.saturated),
            time=now,
        )
    return replace(
        learned,
        kv_tokens=_at_least(learned.kv_tokens, signals.busiest_kv),
        prompt_rate=_at_least(learned.prompt_rate, signals.busiest_rate),
    )


def _blend(known: float | None, seen: float) -> float:
    return seen if known is None else known + _WEIGHT * (seen - known)


def _at_least(known: float | None, proven: float) -> float | None:
    return None if known is None else max(known, proven)


@dataclass(frozen=True, slots=True)
class TrendPoint:
    """Arriving prompt tokens per second at so many replicas, and the waiting tokens to compare the next point with."""

    time: float
    rate: float
    waiting_tokens: float
    replicas: int


def follow(trend: tuple[TrendPoint, ...], signals: Signals, now: float) -> tuple[TrendPoint, ...]:
    """The trend with one more point, at most every 5 s: what was computed, plus what the queue grew by."""
    if signals.known == 0 or signals.unknown:
        return ()
    kept = tuple(point for point in trend if now - _KEPT_SECONDS <= point.time < now)
    if not kept or kept[-1].replicas != signals.known:
        return (TrendPoint(now, signals.prompt_rate, signals.waiting_tokens, signals.known),)
    elapsed = now - kept[-1].time
    if elapsed < LEARN_PERIOD_SECONDS:
        return kept
    queued = (signals.waiting_tokens - kept[-1].waiting_tokens) / elapsed
    arriving = max(0.0, signals.prompt_rate + queued)
    return (*kept, TrendPoint(now, arriving, signals.waiting_tokens, signals.known))


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
    error = (rest / (len(settled) - 2) / spread) ** 0.5
    if present <= 0 or slope <= _TREND_ERRORS * error:
        return 1.0
    return min(MOST_GROWTH, 1.0 + slope * ahead / present)

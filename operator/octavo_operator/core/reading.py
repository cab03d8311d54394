"""What the samples of one replica say at the time of the last of them.

Worked out when a sample comes, so that a decision on many replicas only adds up; and from the ends of each window where
the counters only grew in it, so that a sample costs the same however many are remembered.
"""

from bisect import bisect_right
from dataclasses import dataclass
from math import fsum
from operator import attrgetter
from typing import Final

from octavo_operator.core.buckets import Buckets
from octavo_operator.core.exposition import Sample
from octavo_operator.core.pace import STEADY_SECONDS, WINDOW_SECONDS, Pace
from octavo_operator.core.rates import Arrived, Count, Histogram, added, arrived, rate, through

NEWS_WAITING: Final = 0.5
"""Requests in the mean of 10 s: two or three more in one sample."""
NEWS_KV_SHARE: Final = 0.05
FULL_SHARE: Final = 0.8
"""Of the KV tokens that it holds now, held before: no longer filling up."""

TIME: Final = attrgetter("time")
_PROMPT: Final[Count] = attrgetter("prompt_tokens")
_GENERATION: Final[Count] = attrgetter("generation_tokens")
_TTFT: Final[Histogram] = attrgetter("ttft")
_ITL: Final[Histogram] = attrgetter("itl")
_QUEUE_TIME: Final[Histogram] = attrgetter("queue_time")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a replica's window says at the time of its last sample. Rates are tokens per second, None while unknown.

    `queued`: requests waited in every sample of the mean's window, so it does as much as it can. Not of the whole rate
    window: a queue that adds a replica would be gone before the limit is learned, and the replica come and go for ever.
    `full_rate` is its prompt rate since its queue began and it is full: what it does with less to do is no limit.
    `steady_rate` is what goes through it in a whole minute: the highest of shorter ones is chance.
    """

    time: float
    running: float
    waiting: float
    kv_used: float
    kv_capacity: float
    draining: bool
    waiting_tokens: float
    prompt_rate: float | None
    generation_rate: float | None
    queued: bool
    full_rate: float | None
    steady_rate: float | None
    arrived: Arrived | None
    arrived_lately: Arrived | None
    ttft: Buckets | None
    itl: Buckets | None
    queue_time: Buckets | None = None
    quiet_since: float | None = None
    """From when on nothing arrived, waited, ran or was computed; None while something does, or it cannot be told."""


def is_news(before: Reading | None, after: Reading) -> bool:
    """Whether a replica's load rose so much with one sample that the decision should not wait for its turn.

    A fall never is: a scale-down waits for minutes anyway. A slow rise is not either, and is seen a period later.
    """
    waiting, kv_used = (before.waiting, before.kv_used) if before else (0.0, 0.0)
    return after.waiting - waiting >= NEWS_WAITING or after.kv_used - kv_used >= NEWS_KV_SHARE * after.kv_capacity


def read(samples: tuple[Sample, ...], pace: Pace, *, smooth_since: float, quiet_since: float | None) -> Reading:
    """The reading of these samples, oldest first. From `smooth_since` on every counter only grew."""
    last = samples[-1]
    recent = samples[bisect_right(samples, last.time - pace.mean, key=TIME) :]
    rated = samples[bisect_right(samples, last.time - pace.rate, key=TIME) :]
    lately = samples[max(0, bisect_right(samples, last.time - pace.mean, key=TIME) - 1) :]  # all of the window
    full = _full(samples)
    number, all_smooth, rated_smooth = len(recent), samples[0].time >= smooth_since, rated[0].time >= smooth_since
    return Reading(
        time=last.time,
        running=fsum([sample.running for sample in recent]) / number,
        waiting=_queue([sample.waiting for sample in recent]),
        kv_used=fsum([sample.kv_used for sample in recent]) / number,
        kv_capacity=last.kv_capacity,
        draining=last.draining,
        waiting_tokens=fsum([sample.waiting_tokens for sample in recent]) / number,
        prompt_rate=rate(rated, _PROMPT, WINDOW_SECONDS, smooth=rated_smooth),
        generation_rate=rate(rated, _GENERATION, WINDOW_SECONDS, smooth=rated_smooth),
        queued=last.time - rated[0].time >= WINDOW_SECONDS and len(full) >= len(lately),
        full_rate=rate(full, _PROMPT, WINDOW_SECONDS, smooth=bool(full) and full[0].time >= smooth_since),
        steady_rate=through(samples, _PROMPT, STEADY_SECONDS, smooth=all_smooth),
        arrived=arrived(samples, _PROMPT, smooth=all_smooth),
        arrived_lately=arrived(lately, _PROMPT, smooth=lately[0].time >= smooth_since),
        ttft=added(samples, _TTFT, smooth=all_smooth),
        itl=added(samples, _ITL, smooth=all_smooth),
        queue_time=added(samples, _QUEUE_TIME, smooth=all_smooth) if last.queue_time is not None else None,
        quiet_since=quiet_since,
    )


def _full(samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    """The last ones, as far back as requests waited in each and it was as full as now, or almost.

    One that fills up computes for a while more than it can go on with.
    """
    first, held = len(samples), samples[-1].kv_used * FULL_SHARE
    while first and samples[first - 1].waiting >= 1 and samples[first - 1].kv_used >= held:
        first -= 1
    return samples[first:]


def _queue(waiting: list[float]) -> float:
    """The mean, or what the last two saw in any case."""
    return max(fsum(waiting) / len(waiting), min(waiting[-2:]))

"""What counters say over a run of samples: how fast they grow, and how much work has come, done or not.

A counter that only grew is told by the ends of the run; one that began anew in between, or was missing, has to be added
up. Most never do, so a window remembers from when on that is so (`smooth`).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from octavo_operator.core.buckets import Buckets, grown, increase
from octavo_operator.core.exposition import Sample

Count = Callable[[Sample], float | None]
"""One counter of a sample."""
Histogram = Callable[[Sample], Buckets | None]
"""One histogram of a sample."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Prompt tokens that came to a replica between its first and its last sample, and the seconds between those."""

    tokens: float
    seconds: float


def goes_on(before: Sample, after: Sample) -> bool:
    """Whether every counter and histogram of one sample goes on in the next, or is missing in both."""
    return (
        _counts_on(before.prompt_tokens, after.prompt_tokens)
        and _counts_on(before.generation_tokens, after.generation_tokens)
        and _fills_on(before.ttft, after.ttft)
        and _fills_on(before.itl, after.itl)
        and _fills_on(before.queue_time, after.queue_time)
    )


def _counts_on(before: float | None, after: float | None) -> bool:
    return before is after if before is None or after is None else before <= after


def _fills_on(before: Buckets | None, after: Buckets | None) -> bool:
    if before is None or after is None:
        return before is after
    return before.total <= after.total and before.bounds == after.bounds


def rate(samples: Sequence[Sample], count: Count, least: float, *, smooth: bool) -> float | None:
    """Increase per second of a counter that may have begun again at 0; None before `least` seconds were seen."""
    if not smooth:
        samples = [sample for sample in samples if count(sample) is not None]
    if len(samples) < 2 or count(samples[0]) is None or (seconds := _seconds(samples)) < least:
        return None
    return _increase(samples, count, smooth=smooth) / seconds


def through(samples: Sequence[Sample], count: Count, least: float, *, smooth: bool) -> float | None:
    """Tokens per second that went through a replica: computed, and not what it came to hold more than before.

    One that fills up computes for a while more than it can go on with.
    """
    computed = rate(samples, count, least, smooth=smooth)
    if computed is None:
        return None
    held = max(0.0, samples[-1].kv_used - samples[0].kv_used)
    return max(0.0, computed - held / _seconds(samples))


def arrived(samples: Sequence[Sample], count: Count, *, smooth: bool) -> Arrived | None:
    """What was computed and what the queue grew by; None without a counter. Exact but for a prompt at its edges."""
    if count(samples[-1]) is None or (not smooth and any(count(sample) is None for sample in samples)):
        return None
    queued = samples[-1].waiting_tokens - samples[0].waiting_tokens
    return Arrived(max(0.0, _increase(samples, count, smooth=smooth) + queued), _seconds(samples))


def arrival_rate(parts: Iterable[Arrived | None], least: float) -> float | None:
    """Prompt tokens per second that came to all replicas together, None before `least` seconds were seen.

    One that has just begun brings less than a window: its tokens count in the time of the longest, not in its own. Else
    what moves from an old replica to a new one would be there twice while it moves.
    """
    known = [part for part in parts if part is not None]
    seconds = max((part.seconds for part in known), default=0.0)
    return sum(part.tokens for part in known) / seconds if seconds >= least else None


def added(samples: Sequence[Sample], histogram: Histogram, *, smooth: bool) -> Buckets | None:
    """What a histogram of a replica grew by; None where there is nothing to compare."""
    first, last = histogram(samples[0]), histogram(samples[-1])
    if smooth:
        return grown(first, last) if first is not None and last is not None and len(samples) > 1 else None
    return increase(found for sample in samples if (found := histogram(sample)) is not None)


def _seconds(samples: Sequence[Sample]) -> float:
    return samples[-1].time - samples[0].time


def _increase(samples: Sequence[Sample], count: Count, *, smooth: bool) -> float:
    """Of a counter that all of them have."""
    if smooth:
        return (count(samples[-1]) or 0.0) - (count(samples[0]) or 0.0)
    counts = [count(sample) or 0.0 for sample in samples]
    return sum(new - old if new >= old else new for old, new in pairwise(counts))

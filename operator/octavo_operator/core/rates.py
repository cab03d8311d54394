"""What counters say over a window of samples: how fast they grow, and how much work has come, done or not."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from octavo_operator.core.exposition import Sample


@dataclass(frozen=True, slots=True)
class Arrived:
    """Prompt tokens that came to a replica between its first and its last sample, and the seconds between those."""

    tokens: float
    seconds: float


def rate(points: Sequence[tuple[float, float | None]], least: float) -> float | None:
    """Increase per second of a counter that may have begun again at 0; None before `least` seconds were seen."""
    known = [(time, value) for time, value in points if value is not None]
    if len(known) < 2 or known[-1][0] - known[0][0] < least:
        return None
    return _increase([value for _, value in known]) / (known[-1][0] - known[0][0])


def through(samples: Sequence[Sample], least: float) -> float | None:
    """Prompt tokens per second that went through a replica: computed, and not what it came to hold more than before.

    One that fills up computes for a while more than it can go on with.
    """
    computed = rate([(sample.time, sample.prompt_tokens) for sample in samples], least)
    if computed is None:
        return None
    grown = max(0.0, samples[-1].kv_used - samples[0].kv_used)
    return max(0.0, computed - grown / (samples[-1].time - samples[0].time))


def arrived(samples: Sequence[Sample]) -> Arrived | None:
    """What was computed and what the queue grew by; None without a counter. Exact but for a prompt at its edges."""
    counts = [sample.prompt_tokens for sample in samples if sample.prompt_tokens is not None]
    if len(counts) < len(samples):
        return None
    queued = samples[-1].waiting_tokens - samples[0].waiting_tokens
    return Arrived(max(0.0, _increase(counts) + queued), samples[-1].time - samples[0].time)


def arrival_rate(parts: Iterable[Arrived | None], least: float) -> float | None:
    """Prompt tokens per second that came to all replicas together, None before `least` seconds were seen.

    One that has just begun brings less than a window: its tokens count in the time of the longest, not in its own. Else
    what moves from an old replica to a new one would be there twice while it moves.
    """
    known = [part for part in parts if part is not None]
    seconds = max((part.seconds for part in known), default=0.0)
    return sum(part.tokens for part in known) / seconds if seconds >= least else None


def _increase(counts: Sequence[float]) -> float:
    return sum(new - old if new >= old else new for old, new in pairwise(counts))

"""Records of requests to throughput, latencies and cost. Pure.

The words are those of vLLM's `vllm bench serve`:

    TTFT   time to first token: arrival to the first piece of the answer
    ITL    inter-token latency: each gap between two pieces, of all requests together
    TPOT   time per output token: (last piece - first piece) / (tokens - 1), one number per request
    E2E    arrival to the end of the answer

The arrival in an open loop is the moment at which the request was due, so a client that falls behind makes its figures
worse and never better (coordinated omission, Tene 2013). Requests that failed count as errors and in nothing else.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

CUT: Final = "cut"  # the kind of error of a stream that ended without saying that it is complete
LATE: Final = 0.01  # seconds after which a request counts as sent late
_PERCENTILES: Final = (50, 90, 95, 99)


@dataclass(slots=True)
class Record:
    """One request. Times are seconds since the run's start."""

    arrival: float  # when it was due (open loop), or when it was sent
    lateness: float = 0.0  # seconds between due and sent
    piece_times: list[float] = field(default_factory=list)  # when each piece of the answer came
    end: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    error: str | None = None  # its kind; None when the answer is complete


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The `percent`-th percentile of values in ascending order, interpolated linearly between neighbours."""
    assert ordered, "no values have no percentile"
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def distribution(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles and maximum; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    shares = {f"p{percent}": percentile(ordered, percent) for percent in _PERCENTILES}
    return {"mean": sum(ordered) / len(ordered), **shares, "max": ordered[-1]}


def summarize(records: Sequence[Record], cost_per_hour: float | None) -> dict[str, Any]:
    """The results of a run. `cost_per_hour` is in dollars, of everything that served it."""
    complete = [record for record in records if record.error is None]
    seconds = _seconds(records)
    output_tokens = sum(record.output_tokens for record in complete)
    input_tokens = sum(record.input_tokens for record in complete)
    errors = Counter(record.error for record in records if record.error is not None)
    return {
        "duration_s": seconds,
        "requests": len(records),
        "completed": len(complete),
        "errors": dict(sorted(errors.items())),
        "cut_streams": errors[CUT],
        "late_arrivals": sum(record.lateness > LATE for record in records),
        "max_lateness_s": max((record.lateness for record in records), default=0.0),
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "requests_per_s": _rate(len(complete), seconds),
        "output_tokens_per_s": _rate(output_tokens, seconds),
        "total_tokens_per_s": _rate(input_tokens + output_tokens, seconds),
        **_latencies(complete),
        "cost_per_million_output_tokens": cost_per_million(cost_per_hour, _rate(output_tokens, seconds)),
    }


def cost_per_million(cost_per_hour: float | None, output_tokens_per_s: float) -> float | None:
    """Dollars per million output tokens; None when nothing is known or nothing came out."""
    if cost_per_hour is None or output_tokens_per_s == 0:
        return None
    return cost_per_hour / 3600 / output_tokens_per_s * 1e6


def _latencies(complete: Sequence[Record]) -> dict[str, dict[str, float] | None]:
    answered = [record for record in complete if record.piece_times]
    return {
        "ttft_s": distribution([record.piece_times[0] - record.arrival for record in answered]),
        "itl_s": distribution([b - a for record in answered for a, b in pairwise(record.piece_times)]),
        "tpot_s": distribution([_time_per_token(record) for record in answered if record.output_tokens > 1]),
        "e2e_s": distribution([record.end - record.arrival for record in complete]),
    }


def _time_per_token(record: Record) -> float:
    return (record.piece_times[-1] - record.piece_times[0]) / (record.output_tokens - 1)


def _seconds(records: Sequence[Record]) -> float:
    """From the first arrival to the last end."""
    if not records:
        return 0.0
    return max(record.end for record in records) - min(record.arrival for record in records)


def _rate(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0

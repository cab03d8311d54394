"""Median and spread of repeated timings, and a model of what a kernel costs that is fitted to them."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds of one call."""

    median: float
    p10: float
    p90: float


def summarise(seconds: Sequence[float]) -> Timing:
    """Raises `ValueError` for no timings or one that is not above zero."""
    if not seconds or min(seconds) <= 0:
        raise ValueError(f"timings are {list(seconds)}; expected at least one, all above 0")
    ordered = sorted(seconds)
    return Timing(median(ordered), _at(ordered, 0.1), _at(ordered, 0.9))


def _at(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of them lie, between the two nearest."""
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


@dataclass(frozen=True, slots=True)
class CostModel:
    """A call that moves n bytes takes `launch + n / bandwidth` seconds."""

    launch: float  # seconds
    bandwidth: float  # bytes per second
    worst: float  # the largest relative error on what it was fitted to

    def seconds(self, moved: float) -> float:
        return self.launch + moved / self.bandwidth


def fit(samples: Sequence[tuple[float, float]]) -> CostModel:
    """Least squares of the relative error over (bytes, seconds), so that short calls count as much as long ones.

    A launch below 0 is taken as 0. Raises `ValueError` when the samples do not determine a bandwidth.
    """
    if len({moved for moved, _ in samples}) < 2:
        raise ValueError(f"{len(samples)} samples of one size determine no bandwidth; expected two sizes at least")
    launch, per_byte = _solve(samples)
    if launch < 0:
        launch = 0.0
        per_byte = sum(n / t for n, t in samples) / sum((n / t) ** 2 for n, t in samples)
    if per_byte <= 0:
        raise ValueError("more bytes took less time; no bandwidth follows from that")
    worst = max(abs((launch + n * per_byte) / t - 1) for n, t in samples)
    return CostModel(launch, 1 / per_byte, worst)


def _solve(samples: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """(a, b) with the least sum of ((a + b n) / t - 1)^2: two linear equations, in units of the largest n."""
    unit = max(n for n, _ in samples)
    rows = [(1 / t, n / unit / t) for n, t in samples]
    aa, ab, bb = (sum(row[i] * row[j] for row in rows) for i, j in ((0, 0), (0, 1), (1, 1)))
    a, b = (sum(row[i] for row in rows) for i in (0, 1))
    determinant = aa * bb - ab * ab
    return (a * bb - b * ab) / determinant, (aa * b - ab * a) / determinant / unit

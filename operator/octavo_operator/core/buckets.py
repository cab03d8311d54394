"""A histogram of Prometheus as values: what was added to it, several of them as one, and a quantile.

Source of the quantile's interpolation: `histogram_quantile` of Prometheus (promql/quantile.go).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from operator import add, sub


@dataclass(frozen=True, slots=True)
class Buckets:
    """Cumulative counts by upper bound, in ascending order; the last bound is infinity, so the last count is all."""

    bounds: tuple[float, ...]
    counts: tuple[float, ...]

    @property
    def total(self) -> float:
        """Observations in all buckets."""
        return self.counts[-1] if self.counts else 0.0

    def quantile(self, share: float) -> float:
        """The value that `share` of the observations do not exceed, linear within a bucket; there must be one.

        Beyond the last finite bound nothing is known: then it is that bound.
        """
        rank = share * self.total
        edges = pairwise(zip((0.0, *self.bounds), (0.0, *self.counts), strict=True))
        for (low, below), (high, count) in edges:
            if count >= rank and count > below:
                return low if high == float("inf") else low + (high - low) * (rank - below) / (count - below)
        return self.bounds[-2] if len(self.bounds) > 1 else 0.0


def grown(first: Buckets, last: Buckets) -> Buckets:
    """What was added between two histograms of the same bounds, with no restart between them."""
    return Buckets(first.bounds, tuple(map(sub, last.counts, first.counts)))


def increase(samples: Iterable[Buckets]) -> Buckets | None:
    """What was added between the first and the last of one replica's histograms. A restart begins again at 0.

    None when there is nothing to compare, or the bounds changed in between.
    """
    listed = list(samples)
    if len(listed) < 2 or any(one.bounds != listed[0].bounds for one in listed):
        return None
    restarts = [before for before, after in pairwise(listed) if after.total < before.total]
    added = list(map(sub, listed[-1].counts, listed[0].counts))
    for last_words in restarts:
        added = list(map(add, added, last_words.counts))
    return Buckets(listed[0].bounds, tuple(added))


def together(parts: Iterable[Buckets]) -> Buckets | None:
    """The histograms of several replicas as one; those with other bounds than the first are left out."""
    found = list(parts)
    if not found:
        return None
    bounds = found[0].bounds
    columns = zip(*[part.counts for part in found if part.bounds == bounds], strict=True)
    return Buckets(bounds, tuple(map(sum, columns)))

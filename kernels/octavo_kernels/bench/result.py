"""What a run has found: what the card can do, and how long each shape took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo_kernels.bench.shapes import BenchShape
    from octavo_kernels.bench.timings import Timing

OURS = "triton"


@dataclass(frozen=True, slots=True)
class Ceilings:
    """What the card did in the same run."""

    copy: float  # bytes per second, read and written
    read: float  # bytes per second
    product: float  # operations per second, bf16


@dataclass(frozen=True, slots=True)
class Result:
    """One shape: how long each implementation took, or why it did not."""

    shape: BenchShape
    timings: Mapping[str, Timing]
    left_out: Mapping[str, str]

    def share_of(self, ceilings: Ceilings) -> float:
        """Ours over what the card could do: of the bandwidth, or of the products where these take longer."""
        return self.shape.least_seconds(ceilings.read, ceilings.product) / self.timings[OURS].median

    def ratios(self) -> dict[str, float]:
        """Each other's time over ours: above 1, ours is faster."""
        ours = self.timings[OURS].median
        return {name: timing.median / ours for name, timing in self.timings.items() if name != OURS}

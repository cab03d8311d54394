"""Samples of the last seconds, per replica, and what they say together.

A replica's signal is the mean of its samples inside the window. A replica without a sample inside the window is
unknown, which is not the same as idle (`autoscale.py` says what follows).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Final

from octavo_operator.core.exposition import Sample

WINDOW_SECONDS: Final = 10.0
"""Five scrapes at the default period: long enough to even out one burst, short enough to follow a ramp."""


@dataclass(frozen=True, slots=True)
class Window:
    """Samples of one replica, oldest first."""

    samples: tuple[Sample, ...] = ()

    def add(self, sample: Sample) -> "Window":
        """The window with one more sample and without those that have become too old."""
        kept = [old for old in self.samples if sample.time - WINDOW_SECONDS < old.time <= sample.time]
        return Window((*kept, sample))

    def mean(self, now: float) -> Sample | None:
        """The mean of the samples that are fresh at `now`, or None when there is none."""
        fresh = [sample for sample in self.samples if now - WINDOW_SECONDS < sample.time <= now]
        if not fresh:
            return None
        return replace(
            fresh[-1],
            running=fmean(sample.running for sample in fresh),
            waiting=fmean(sample.waiting for sample in fresh),
            kv_used=fmean(sample.kv_used for sample in fresh),
        )


@dataclass(frozen=True, slots=True)
class Signals:
    """Load of the ready replicas at one moment: sums over those with a fresh sample, and how many have none.

    `silent` are those of the unknown that had a whole window to give one; the others only just became ready.
    """

    ready: int
    unknown: int
    silent: int = 0
    running: float = 0.0
    waiting: float = 0.0
    kv_used: float = 0.0
    kv_capacity: float = 0.0

    @property
    def known(self) -> int:
        """Ready replicas with a fresh sample."""
        return self.ready - self.unknown

    @property
    def too_early(self) -> bool:
        """Whether nothing can be said yet: no sample, and no replica that should have given one."""
        return self.ready > 0 and self.known == 0 and self.silent == 0

    @property
    def kv_utilization(self) -> float:
        """KV cache in use, 0 to 1, of the sampled replicas together; 0 when none was sampled."""
        return self.kv_used / self.kv_capacity if self.kv_capacity else 0.0


def aggregate(windows: Mapping[str, Window], ready: Mapping[str, float], now: float) -> Signals:
    """The signals of the `ready` replicas (pod uid -> since when). A draining replica is neither load nor capacity."""
    means = {uid: windows.get(uid, Window()).mean(now) for uid in ready}
    serving = {uid: mean for uid, mean in means.items() if mean is None or not mean.draining}
    known = [mean for mean in serving.values() if mean is not None]
    unknown = [uid for uid, mean in serving.items() if mean is None]
    return Signals(
        ready=len(serving),
        unknown=len(unknown),
        silent=sum(1 for uid in unknown if now - ready[uid] > WINDOW_SECONDS),
        running=sum(mean.running for mean in known),
        waiting=sum(mean.waiting for mean in known),
        kv_used=sum(mean.kv_used for mean in known),
        kv_capacity=sum(mean.kv_capacity for mean in known),
    )

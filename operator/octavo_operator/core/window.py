"""Samples of the last minute, per replica, and what they say together.

    samples of one replica ──add──> Reading (its means, rates, added latencies) ──aggregate──> Signals of all

Means are over 10 s, rates over 20 s, latencies over 60 s: each as short as its noise allows; longer where samples come
from Prometheus, which has fewer (`Pace`). A queue that two samples in a row have seen counts as long as the shorter of
both at once: a burst does not wait until it is the mean, and a single sample is no burst. A replica without a fresh
sample, in the last 10 s, is unknown, which is not the same as idle (`autoscale.py` says what follows).
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from octavo_operator.core.buckets import Buckets, together
from octavo_operator.core.exposition import Sample
from octavo_operator.core.pace import DIRECT, LATENCY_SECONDS, WINDOW_SECONDS, Pace
from octavo_operator.core.rates import arrival_rate, goes_on
from octavo_operator.core.reading import TIME, Reading, read

WARM_UP_SECONDS: Final = 30.0
"""A replica teaches nothing about what one carries before it has served for so long (ai-dynamo/dynamo#12430)."""
QUANTILE: Final = 0.95
FEWEST_OBSERVATIONS: Final = 20
"""With fewer, the 95th percentile is the slowest single request."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why replicas have no sample, where the source itself knows: a reason and its words."""

    reason: str
    words: str


@dataclass(frozen=True, slots=True)
class Window:
    """Samples of one replica, oldest first, and what they say. `unusable`: when it last answered without a sample.

    `smooth_since`: the first sample of those in which no counter began anew, came or went.
    """

    samples: tuple[Sample, ...] = ()
    reading: Reading | None = None
    unusable: float | None = None
    pace: Pace = DIRECT
    smooth_since: float = 0.0

    def add(self, sample: Sample) -> "Window":
        """The window with one more sample and without those that have become too old."""
        first = bisect_right(self.samples, sample.time - LATENCY_SECONDS, key=TIME)
        kept = self.samples[first : bisect_left(self.samples, sample.time, key=TIME)]
        smooth, quiet = self._smooth_since(kept, sample), self._quiet_since(sample)
        samples = (*kept, sample)
        reading = read(samples, self.pace, smooth_since=smooth, quiet_since=quiet)
        return Window(samples, reading, pace=self.pace, smooth_since=smooth)

    def _smooth_since(self, kept: tuple[Sample, ...], sample: Sample) -> float:
        """Where the clock went back, only the last of those that were kept is known to be of the same run."""
        if not kept or not goes_on(kept[-1], sample):
            return sample.time
        return min(self.smooth_since, kept[-1].time)

    def _quiet_since(self, sample: Sample) -> float | None:
        """Idle by the counters: what came and went between two samples moved them, however far apart those are."""
        counters = (sample.prompt_tokens, sample.generation_tokens)
        if sample.running or sample.waiting or None in counters:
            return None
        last, quiet = self.samples[-1] if self.samples else None, self.reading.quiet_since if self.reading else None
        if last is None or quiet is None or (last.prompt_tokens, last.generation_tokens) != counters:
            return sample.time
        return quiet

    def spoil(self, now: float) -> "Window":
        """The same after an answer that was no sample."""
        return replace(self, unusable=now)

    def at(self, now: float) -> Reading | None:
        """What the window says, or None when its last sample is not fresh at `now`."""
        reading = self.reading
        return reading if reading is not None and now - self.pace.fresh < reading.time <= now else None


@dataclass(frozen=True, slots=True)
class Signals:
    """Load of the ready replicas at one moment: sums over those with a fresh sample, and how many have none.

    `silent` are those of the unknown that had a whole window to give one; the others only just became ready.
    `unusable` are those that answer, but with nothing that could be read. What `saturated` replicas (warm, with a
    queue) carry is what a replica can carry; what the `busiest` warm one without a queue carries, it can carry as well.
    Seconds are None while too little was seen. Unschedulable pods are not among the ready ones. `arrival_rate` are the
    prompt tokens/s that came within the last minute, those that still wait included, `newest_rate` of the last 10 s.

    `quiet_for` are the seconds in which no ready replica had anything to do, None while one has, or is unknown; samples
    are at most `oldest` seconds old. `held` requests wait at the activator with about `held_tokens` tokens; `activated`
    are the seconds for which the Service has led to it and it has answered that nothing came, None while one of both is
    not so; `deaf`: it is not there, or does not answer.
    """

    ready: int
    unknown: int
    silent: int = 0
    running: float = 0.0
    waiting: float = 0.0
    kv_used: float = 0.0
    kv_capacity: float = 0.0
    waiting_tokens: float = 0.0
    prompt_rate: float = 0.0
    generation_rate: float = 0.0
    arrival_rate: float | None = None
    newest_rate: float | None = None
    unusable: int = 0
    saturated: int = 0
    saturated_kv: float = 0.0
    saturated_rate: float = 0.0
    busiest_kv: float = 0.0
    busiest_rate: float = 0.0
    ttft_p95: float | None = None
    itl_p95: float | None = None
    queue_wait_p95: float | None = None
    unschedulable: int = 0
    startup_p90: float | None = None
    quiet_for: float | None = None
    oldest: float = 0.0
    held: float = 0.0
    held_tokens: float = 0.0
    activated: float | None = None
    deaf: bool = False

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


def aggregate(
    windows: Mapping[str, Window],
    ready: Mapping[str, float],
    now: float,
    *,
    since: float = 0.0,
    pace: Pace = DIRECT,
    unschedulable: int = 0,
    startup_p90: float | None = None,
) -> Signals:
    """The signals of the `ready` replicas (pod uid -> since when), sampled at that pace from `since` on.

    A draining replica is neither load nor capacity.
    """
    readings = {uid: windows[uid].at(now) if uid in windows else None for uid in ready}
    known = {uid: reading for uid, reading in readings.items() if reading is not None and not reading.draining}
    unknown = [uid for uid, reading in readings.items() if reading is None]
    silent = [uid for uid in unknown if now - max(ready[uid], since) > pace.fresh]
    warm = [reading for uid, reading in known.items() if now - ready[uid] > WARM_UP_SECONDS]
    return _sum(
        list(known.values()),
        unknown=len(unknown),
        silent=len(silent),
        unusable=sum(1 for uid in silent if uid in windows and _answers(windows[uid], now)),
        full=[reading for reading in warm if reading.queued],
        free=[reading for reading in warm if not reading.queued],
        unschedulable=unschedulable,
        startup_p90=startup_p90,
        quiet_for=_quiet_for(readings.values(), now),
        oldest=max((now - reading.time for reading in readings.values() if reading is not None), default=0.0),
    )


def _quiet_for(readings: Iterable[Reading | None], now: float) -> float | None:
    """Draining replicas too: they may still answer."""
    since = [reading.quiet_since if reading is not None else None for reading in readings]
    if not since or None in since:
        return None
    return max(0.0, now - max(moment for moment in since if moment is not None))


def _answers(window: Window, now: float) -> bool:
    return window.unusable is not None and now - window.pace.fresh < window.unusable <= now


def _sum(
    known: list[Reading],
    *,
    unknown: int,
    silent: int,
    unusable: int,
    full: list[Reading],
    free: list[Reading],
    unschedulable: int,
    startup_p90: float | None,
    quiet_for: float | None,
    oldest: float,
) -> Signals:
    """Replicas of one ModelServer are alike: one that claims another capacity than the median must not sway the sum."""
    capacity = median(reading.kv_capacity for reading in known) if known else 0.0
    return Signals(
        ready=len(known) + unknown,
        unknown=unknown,
        silent=silent,
        unusable=unusable,
        running=sum(reading.running for reading in known),
        waiting=sum(reading.waiting for reading in known),
        kv_used=sum(_kv_used(known, capacity)),
        kv_capacity=capacity * len(known),
        waiting_tokens=sum(reading.waiting_tokens for reading in known),
        prompt_rate=sum(reading.prompt_rate or 0.0 for reading in known),
        generation_rate=sum(reading.generation_rate or 0.0 for reading in known),
        arrival_rate=arrival_rate((reading.arrived for reading in known), WINDOW_SECONDS),
        newest_rate=arrival_rate((reading.arrived_lately for reading in known), WINDOW_SECONDS),
        saturated=len(full),
        saturated_kv=sum(_kv_used(full, capacity)),
        saturated_rate=sum(max(reading.full_rate or 0.0, reading.steady_rate or 0.0) for reading in full),
        busiest_kv=max(_kv_used(free, capacity), default=0.0),
        busiest_rate=max((reading.steady_rate or 0.0 for reading in free), default=0.0),
        ttft_p95=_p95(reading.ttft for reading in known),
        itl_p95=_p95(reading.itl for reading in known),
        queue_wait_p95=_p95(reading.queue_time for reading in known),
        unschedulable=unschedulable,
        startup_p90=startup_p90,
        quiet_for=quiet_for,
        oldest=oldest,
    )


def _kv_used(readings: list[Reading], capacity: float) -> list[float]:
    # `min` takes four times as long, and this is done for each replica.
    return [reading.kv_used if reading.kv_used < capacity else capacity for reading in readings]  # noqa: FURB136


def _p95(parts: Iterable[Buckets | None]) -> float | None:
    """The 95th percentile over all replicas; None with too few observations."""
    total = together(part for part in parts if part is not None)
    return total.quantile(QUANTILE) if total is not None and total.total >= FEWEST_OBSERVATIONS else None

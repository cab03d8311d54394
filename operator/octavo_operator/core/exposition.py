"""Prometheus text -> the few metrics that the operator reads.

Own lines instead of prometheus_client's parser: that one needs 0.1 s for 5,000 samples, splits a counter's family
when OpenMetrics text reaches its classic parser, and this core must not import it. Sample lines are the same in both
formats, so nothing depends on the Content-Type. What is not a finite number of at least 0 is missing, never 0.

The gauges make a sample: without one of them there is none. Counters and histograms may be missing; then what is made
of them (rates, p95) is unknown.
"""

import math
import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, NamedTuple

from octavo_operator.core import names
from octavo_operator.core.buckets import Buckets

_HEAD: Final = re.compile(r'([a-zA-Z_:][\w:]*)(?:\{((?:[^"}]|"(?:[^"\\]|\\.)*")*)\})?')
_LINE: Final = re.compile(_HEAD.pattern + r"[ \t]+(\S+)")
_BOUND: Final = re.compile(r'(?:^|,)\s*le="([^"]*)"')
_BUCKET: Final = "_bucket"
_GAUGES: Final = (names.METRIC_RUNNING, names.METRIC_WAITING, names.METRIC_KV_USED, names.METRIC_KV_CAPACITY)
READ: Final = (
    *_GAUGES,
    names.METRIC_DRAINING,
    names.METRIC_WAITING_TOKENS,
    names.METRIC_PROMPT_TOKENS,
    names.METRIC_GENERATION_TOKENS,
    names.METRIC_TTFT + _BUCKET,
    names.METRIC_ITL + _BUCKET,
)
"""The metrics that are read of every replica."""
QUEUE_TIME: Final = names.METRIC_QUEUE_TIME + _BUCKET
"""Read only where a target asks for it (autoscaling.slo.queueWait): two fifths more lines to take in."""
READABLE: Final = frozenset({*READ, QUEUE_TIME})
_PREFIX: Final = "octavo_"
"""Of all of them. Other lines are not looked at."""
_LARGEST: Final = 1e15
"""No replica has seen so many tokens or requests: a larger number is garbage, and a sum of such ones an infinity."""


@dataclass(frozen=True, slots=True)
class Sample:
    """Load of one replica at one moment. `time` is the operator's clock, in seconds.

    `waiting_tokens` are to be computed for the waiting requests. `prompt_tokens` and `generation_tokens` are totals
    since the replica's start; `ttft` (time to first token), `itl` (between two tokens) and `queue_time` (from arrival
    to the first step) are histograms of seconds.
    """

    time: float
    running: float
    waiting: float
    kv_used: float
    kv_capacity: float
    draining: bool = False
    waiting_tokens: float = 0.0
    prompt_tokens: float | None = None
    generation_tokens: float | None = None
    ttft: Buckets | None = None
    itl: Buckets | None = None
    queue_time: Buckets | None = None


class Place(NamedTuple):
    """Where the value of a series belongs: to a metric, and for a bucket of a histogram to its upper bound."""

    metric: str
    bound: float | None


@dataclass(slots=True)
class Found:
    """Sums over the series of each metric of one scrape; None for one with a series that is no usable number."""

    values: dict[str, float | None] = field(default_factory=dict)
    buckets: dict[str, dict[float, float | None]] = field(default_factory=dict)

    def put(self, place: Place, text: str) -> None:
        """Takes in one series' value."""
        value = _number(text)
        if place.bound is None:
            self.values[place.metric] = _plus(self.values.get(place.metric, 0.0), value)
            return
        buckets = self.buckets.get(place.metric)
        if buckets is None:
            buckets = self.buckets[place.metric] = {}
        buckets[place.bound] = _plus(buckets.get(place.bound, 0.0), value)


def place_of(name: str, le: str | None) -> Place | None:
    """Of a series of a metric; `le` is its label. None for a metric that is not read, and a bucket without a bound."""
    if name not in READABLE:
        return None
    if not name.endswith(_BUCKET):
        return Place(name, None)
    bound = _bound(le)
    return Place(name.removesuffix(_BUCKET), bound) if bound is not None else None


_ODD: Final = Place("", None)
"""For what is no name with its labels: a value with a timestamp or an exemplar, tabs, more than one space."""


def parse_sample(text: str, now: float, *, queue_time: bool = False) -> Sample | None:
    """The sample in a runtime's /metrics, or None when one of its gauges is missing or no usable number.

    `queue_time`: whether the histogram of that is wanted.
    """
    found, place_of_head = Found(), _place if queue_time else _usual_place
    for line in text.splitlines():
        if line.startswith(_PREFIX):
            head, _, value = line.rpartition(" ")
            place: Place | None = place_of_head(head)
            if place is _ODD or not value or "\t" in value:
                place, value = _take_apart(line)
            if place is not None:
                found.put(place, value)
    return make_sample(found, now)


@lru_cache(maxsize=4096)
def _place(head: str) -> Place | None:
    """What stands before a value; remembered, since every scrape of a replica has the same again."""
    match = _HEAD.fullmatch(head)
    return _matched(match) if match else _ODD


@lru_cache(maxsize=4096)
def _usual_place(head: str) -> Place | None:
    """The same where times in the queue are not wanted; remembered too, so that leaving them out costs nothing."""
    place = _place(head)
    return None if place is not None and place.metric == names.METRIC_QUEUE_TIME else place


def _take_apart(line: str) -> tuple[Place | None, str]:
    match = _LINE.match(line)
    return (_matched(match), match[3]) if match else (None, "")


def _matched(match: re.Match[str]) -> Place | None:
    bound = _BOUND.search(match[2] or "")
    return place_of(match[1], bound[1] if bound else None)


def make_sample(found: Found, now: float) -> Sample | None:
    """The sample in one scrape's series, or None when one of the gauges is missing or no usable number."""
    running, waiting, used, capacity = (found.values.get(name) for name in _GAUGES)
    if running is None or waiting is None or used is None or not capacity or used > capacity:
        return None
    return Sample(
        now,
        running,
        waiting,
        used,
        capacity,
        draining=found.values.get(names.METRIC_DRAINING) == 1.0,
        waiting_tokens=found.values.get(names.METRIC_WAITING_TOKENS) or 0.0,
        prompt_tokens=found.values.get(names.METRIC_PROMPT_TOKENS),
        generation_tokens=found.values.get(names.METRIC_GENERATION_TOKENS),
        ttft=_histogram(found.buckets.get(names.METRIC_TTFT)),
        itl=_histogram(found.buckets.get(names.METRIC_ITL)),
        queue_time=_histogram(found.buckets.get(names.METRIC_QUEUE_TIME)),
    )


def _plus(left: float | None, right: float | None) -> float | None:
    return None if left is None or right is None else left + right


def _bound(text: str | None) -> float | None:
    try:
        bound = float(text) if text else math.nan
    except ValueError:
        return None
    return None if math.isnan(bound) else bound


def _histogram(buckets: dict[float, float | None] | None) -> Buckets | None:
    """The histogram, or None where it is incomplete or its counts are not cumulative."""
    if not buckets or math.inf not in buckets:
        return None
    bounds = sorted(buckets)
    counts = [count for bound in bounds if (count := buckets[bound]) is not None]
    if len(counts) < len(bounds) or counts != sorted(counts):
        return None
    return Buckets(tuple(bounds), tuple(counts))


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if 0 <= value <= _LARGEST else None

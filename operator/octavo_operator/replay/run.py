"""The closed loop, and what came of it."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random

from octavo_operator.replay.fleet import Fleet
from octavo_operator.replay.replica import Machine
from octavo_operator.replay.scalers import SCRAPE_SECONDS, Scaler
from octavo_operator.replay.trace import Arrival

_PATIENCE_SECONDS = 3600.0
_LATEST_SECONDS = 0.02
"""How late a tick is at the most: on an even grid each window would begin at a sample, as none does on real clocks."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scaler on one trace. A violation is a first token later than `slo` seconds, or none within an hour.

    `replicas` are (since when, how many); `late` are the arrivals of the requests whose first token came too late.
    """

    scaler: str
    requests: int
    violations: int
    ttft_p50: float
    ttft_p95: float
    replica_hours: float
    most: int
    turns: int
    replicas: tuple[tuple[float, int], ...]
    late: tuple[float, ...] = ()


def play(scaler: Scaler, trace: list[Arrival], machine: Machine, *, startup: float, start: int, slo: float) -> Outcome:
    """Runs a trace through a fleet that begins with `start` replicas, until its last request is answered.

    Replica-hours are those of the trace itself, so that a scaler gains nothing by a fast end.
    """
    fleet, queue = Fleet(machine, startup), _Queue(trace)
    fleet.begin(start)
    end = math.ceil(trace[-1].time / SCRAPE_SECONDS) * SCRAPE_SECONDS
    history, spent, lateness = [(0.0, start)], 0.0, Random(0)  # noqa: S311  guards nothing
    while fleet.now < end or (fleet.busy and fleet.now < end + _PATIENCE_SECONDS):
        until = fleet.now + SCRAPE_SECONDS + lateness.uniform(0, _LATEST_SECONDS)
        fleet.run(until, queue.take(until))
        fleet.scale(scaler.look(fleet))
        if fleet.size != history[-1][1]:
            history.append((fleet.now, fleet.size))
        spent = fleet.replica_seconds if fleet.now <= end else spent
    return _outcome(scaler.name, fleet, len(trace), slo=slo, seconds=spent, history=history)


class _Queue:
    """Arrivals in order, each handed out once."""

    def __init__(self, trace: list[Arrival]) -> None:
        self._trace = trace
        self._next = 0

    def take(self, until: float) -> Iterator[tuple[int, Arrival]]:
        while self._next < len(self._trace) and self._trace[self._next].time <= until:
            self._next += 1
            yield self._next - 1, self._trace[self._next - 1]


def _outcome(
    name: str, fleet: Fleet, requests: int, *, slo: float, seconds: float, history: list[tuple[float, int]]
) -> Outcome:
    ttfts = sorted(first.ttft for first in fleet.first_tokens)
    in_time = sum(1 for value in ttfts if value <= slo)
    ups = [after > before for (_, before), (_, after) in pairwise(history)]
    return Outcome(
        scaler=name,
        requests=requests,
        violations=requests - in_time,
        ttft_p50=_quantile(ttfts, 0.5),
        ttft_p95=_quantile(ttfts, 0.95),
        replica_hours=seconds / 3600,
        most=max(number for _, number in history),
        turns=sum(1 for was, up in pairwise(ups) if up != was),
        replicas=tuple(history),
        late=tuple(sorted(first.arrived for first in fleet.first_tokens if first.ttft > slo)),
    )


def _quantile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else math.inf

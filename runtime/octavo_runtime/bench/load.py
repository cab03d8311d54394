"""When requests come. Pure, and the same for the same seed.

open loop     requests are due by a schedule, whatever the server does:   |-x--xx----x-|
closed loop   N clients, each sends its next request when it has its answer
at once       everything is there from the start
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Load:
    """`rate` in requests per second, or `concurrency` in clients; neither: all at once."""

    rate: float | None = None
    concurrency: int | None = None

    def __post_init__(self) -> None:
        assert self.rate is None or self.concurrency is None, "a loop is open or closed"


def poisson_arrivals(rate: float, count: int, seed: int) -> list[float]:
    """When each of `count` requests is due: seconds from the start, the first at 0, exponential gaps of mean 1/rate."""
    generator = random.Random(f"arrivals {seed}")
    due, schedule = 0.0, []
    for _ in range(count):
        schedule.append(due)
        due += generator.expovariate(rate)
    return schedule


class Feed:
    """Hands out the numbers of requests when they are due, for a caller that computes in steps."""

    def __init__(self, load: Load, count: int, seed: int) -> None:
        self._limit = load.concurrency or count
        self._schedule = poisson_arrivals(load.rate, count, seed) if load.rate is not None else None
        self._count = count
        self._next = 0

    @property
    def exhausted(self) -> bool:
        return self._next == self._count

    def take(self, now: float, in_flight: int) -> list[tuple[int, float]]:
        """The requests that are due at `now`, with their arrivals; `in_flight` of those taken are not answered yet."""
        due = []
        while not self.exhausted and in_flight < self._limit and (arrival := self._due(now)) <= now:
            due.append((self._next, arrival))
            self._next += 1
            in_flight += 1
        return due

    def wait(self, now: float) -> float:
        """Seconds until the next one is due by the schedule."""
        return 0.0 if self.exhausted else max(0.0, self._due(now) - now)

    def _due(self, now: float) -> float:
        if self._schedule is not None:
            return self._schedule[self._next]
        return now if self._next >= self._limit else 0.0


def one_server_arrival(load: Load, index: int, schedule: list[float] | None, ends: list[float]) -> float:
    """When request `index` comes to a server that answers one at a time, in order.

    `ends` are the ends of those before it. In a closed loop of N clients it is sent when request `index - N` has its
    answer, so the queue can be worked out without waiting in it.
    """
    if schedule is not None:
        return schedule[index]
    if load.concurrency is not None and index >= load.concurrency:
        return ends[index - load.concurrency]
    return 0.0

"""Fewest replicas by the clock on the wall: which schedules are in force at a moment.

    days      from   to       in force
    Mon-Fri   08:00  20:00    08:00 <= time < 20:00 on those days
    Fri       22:00  06:00    from 22:00 on Friday until 06:00 on Saturday
    Sat       00:00  00:00    all of Saturday

    cron start      cron end
    45 7 * * 1-5    0 20 * * 1-5    from 07:45 to 20:00 on those days
    0 0 1 * *       0 0 3 * *       the first two days of each month

Local time decides, so an hour that a change of the clocks repeats is in force twice and one that it skips is not
missed: nothing starts a schedule, it only is in force or not. A pair of cron expressions is in force while the last
moment of its start is later than the last one of its end, which a restart cannot miss either.
"""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Final, Protocol
from zoneinfo import ZoneInfo

from cronsim import CronSim, CronSimError

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Floor:
    """The fewest replicas, and the schedule that asks for them."""

    replicas: int
    name: str


class Schedule(Protocol):
    """Fewest replicas at some times."""

    @property
    def name(self) -> str: ...
    @property
    def min_replicas(self) -> int: ...
    def in_force(self, now: float) -> bool:
        """Whether it counts at `now`, seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class Daily:
    """`start` and `end` are minutes since midnight in `zone`; `days` are those on which it starts, Monday is 0."""

    name: str
    days: frozenset[int]
    start: int
    end: int
    zone: str
    min_replicas: int

    def in_force(self, now: float) -> bool:
        """Whether it counts at `now`, seconds since the epoch."""
        local = _local(now, self.zone)
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


@dataclass(frozen=True, slots=True)
class Cron:
    """`start` and `end` are cron expressions of five fields, in `zone`."""

    name: str
    start: str
    end: str
    zone: str
    min_replicas: int

    def in_force(self, now: float) -> bool:
        """Whether it has started since it ended last; of a start and an end in one minute the end counts."""
        minute = _local(now, self.zone).replace(second=0, microsecond=0, tzinfo=None)
        started, ended = _last(self.start, minute), _last(self.end, minute)
        return started is not None and (ended is None or started > ended)


def cron_problem(expression: str) -> str | None:
    """What is wrong with a cron expression, or None."""
    try:
        CronSim(expression, datetime(2026, 1, 1))  # noqa: DTZ001  which moment does not matter
    except CronSimError as error:
        return str(error)
    return None


@lru_cache(maxsize=1024)
def _last(expression: str, minute: datetime) -> datetime | None:
    """The last minute of a cron expression up to and with `minute`, None where there is none in 50 years."""
    with suppress(StopIteration):
        return next(CronSim(expression, minute.replace(second=1), reverse=True))
    return None


def _local(now: float, zone: str) -> datetime:
    return datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo(zone))


def floor_at(schedules: Iterable[Schedule], now: float) -> Floor | None:
    """The highest floor in force at `now`, None without any."""
    floors = [Floor(item.min_replicas, item.name) for item in schedules if item.in_force(now)]
    return max(floors, key=lambda floor: floor.replicas, default=None)

"""Fewest replicas by the clock on the wall: which schedules are in force at a moment.

    days      from   to       in force
    Mon-Fri   08:00  20:00    08:00 <= time < 20:00 on those days
    Fri       22:00  06:00    from 22:00 on Friday until 06:00 on Saturday
    Sat       00:00  00:00    all of Saturday

Local time decides, so an hour that a change of the clocks repeats is in force twice and one that it skips is not
missed: nothing starts a schedule, it only is in force or not. That is why it is no cron expression (DESIGN.md).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from zoneinfo import ZoneInfo

DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Floor:
    """The fewest replicas, and the schedule that asks for them."""

    replicas: int
    name: str


@dataclass(frozen=True, slots=True)
class Schedule:
    """`start` and `end` are minutes since midnight in `zone`; `days` are those on which it starts, Monday is 0."""

    name: str
    days: frozenset[int]
    start: int
    end: int
    zone: str
    min_replicas: int

    def in_force(self, now: float) -> bool:
        """Whether it counts at `now`, seconds since the epoch."""
        local = datetime.fromtimestamp(now, UTC).astimezone(ZoneInfo(self.zone))
        minute, day = 60 * local.hour + local.minute, local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= minute < self.end
        return (day in self.days and minute >= self.start) or ((day - 1) % 7 in self.days and minute < self.end)


def floor_at(schedules: Iterable[Schedule], now: float) -> Floor | None:
    """The highest floor in force at `now`, None without any."""
    floors = [Floor(item.min_replicas, item.name) for item in schedules if item.in_force(now)]
    return max(floors, key=lambda floor: floor.replicas, default=None)

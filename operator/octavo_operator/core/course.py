"""How long each phase of a replica's start took, from what it said and when.

container runs ──process──fetch──weights──warmup──tokenizer──> ready
a look every 2 s, so that is how exact it is; a phase that falls between two looks is not seen
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Final

LATE_SECONDS: Final = 6.0
"""A start whose first look came later than this was joined in the middle: nobody knows when that phase began."""


@dataclass(frozen=True, slots=True)
class Course:
    """The phases of one start as they were seen, each with when it was seen first. `began`: when its container ran."""

    began: float
    seen: tuple[tuple[str, float], ...] = ()

    def at(self, phase: str, now: float) -> "Course":
        """The course after one more look."""
        known = self.seen and self.seen[-1][0] == phase
        return self if known else replace(self, seen=(*self.seen, (phase, now)))

    def lengths(self, ready: float) -> dict[str, float]:
        """Seconds of each phase of a start that was over at `ready`."""
        if not self.seen:
            return {}
        (_, first), *later = self.seen
        joined_late = first - self.began > LATE_SECONDS
        marks = [first if joined_late else self.began, *(moment for _, moment in later), ready]
        spans = [max(0.0, end - begin) for begin, end in pairwise(marks)]
        named = list(zip((phase for phase, _ in self.seen), spans, strict=True))
        return dict(named[1:] if joined_late else named)


def typical(starts: Iterable[Mapping[str, float]]) -> dict[str, int]:
    """The median of each phase over several starts."""
    listed = list(starts)
    phases = {phase for start in listed for phase in start}
    return {phase: round(median(start[phase] for start in listed if phase in start)) for phase in phases}

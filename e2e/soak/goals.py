"""What a soak has measured, beside what it should have been."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kit import figures

if TYPE_CHECKING:
    from collections.abc import Iterable


class Goal(NamedTuple):
    figure: str
    goal: str
    value: str
    met: bool


def report(goals: Iterable[Goal]) -> bool:
    """Print each, record it in the table of figures (OCTAVO_RECORD=1), and return whether all are met."""
    everything = True
    for goal in goals:
        print(f"{'ok' if goal.met else 'MISSED':>6}  {goal.figure}: {goal.value} (goal: {goal.goal})", flush=True)
        figures.record(goal.figure, goal=goal.goal, value=goal.value)
        everything &= goal.met
    return everything

"""What a soak has measured, beside what it should have been."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kit import figures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kit.load import Tally


class Goal(NamedTuple):
    figure: str
    goal: str
    value: str
    met: bool


def lost(figure: str, tallies: Iterable[Tally]) -> Goal:
    """Streams of all these loads that failed or were cut: none, and each load has finished some."""
    everybody = tuple(tallies)
    gone = sum(len(tally.failed) + len(tally.cut) for tally in everybody)
    whole = sum(tally.finished for tally in everybody)
    return Goal(figure, "0", f"{gone} of {whole + gone}", gone == 0 and all(tally.finished for tally in everybody))


def report(goals: Iterable[Goal]) -> bool:
    """Print each, record it in the table of figures (OCTAVO_RECORD=1), and return whether all are met."""
    everything = True
    for goal in goals:
        print(f"{'ok' if goal.met else 'MISSED':>6}  {goal.figure}: {goal.value} (goal: {goal.goal})", flush=True)
        figures.record(goal.figure, goal=goal.goal, value=goal.value)
        everything &= goal.met
    return everything

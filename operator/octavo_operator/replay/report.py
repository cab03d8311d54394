"""Outcomes as a table for the terminal, and the replicas over time as a line of blocks."""

from collections.abc import Sequence
from typing import Final

from octavo_operator.replay.run import Outcome

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 40


def table(outcomes: Sequence[Outcome], *, duration: float, gpus: int, price: float | None = None) -> str:
    """One row per scaler; `duration` is the trace's in seconds, `gpus` those of one replica (0: replica-hours).

    `price` is that of a replica for an hour; without one there is no column for the cost. Where several are compared, a
    star is at those that no other one beats.
    """
    unit, wide = "GPU-hours" if gpus else "replica-hours", max(12, *(len(item.scaler) + 2 for item in outcomes))
    header = f"{'scaler':<{wide}}{'requests':>9}{'late':>7}{'late %':>8}{'TTFT p50':>10}{'TTFT p95':>10}"
    peak = max(outcome.most for outcome in outcomes)
    cost = "" if price is None else f"{'cost':>9}"
    rows = [f"{item.scaler:<{wide}}{_row(item, max(1, gpus), price)}{_star(item, outcomes)}" for item in outcomes]
    lines = [f"{outcome.scaler:<{wide}}{chart(outcome, duration, peak)}" for outcome in outcomes]
    head = f"{header}{unit:>15}{'most':>6}{'turns':>7}{cost}"
    return "\n".join([head, *rows, "", f"replicas over time, full height {peak}", *lines, ""])


def _row(outcome: Outcome, gpus: int, price: float | None) -> str:
    cost = "" if price is None else f"{outcome.replica_hours * price:>9.2f}"
    return (
        f"{outcome.requests:>9}{outcome.violations:>7}"
        f"{outcome.violations / outcome.requests:>8.1%}{outcome.ttft_p50:>9.2f}s{outcome.ttft_p95:>9.2f}s"
        f"{outcome.replica_hours * gpus:>15.2f}{outcome.most:>6}{outcome.turns:>7}{cost}"
    )


def _star(one: Outcome, outcomes: Sequence[Outcome]) -> str:
    """Whether no other has fewer late requests for no more hours, or as few for less."""
    mine = (one.violations, one.replica_hours)
    others = [(other.violations, other.replica_hours) for other in outcomes]
    beaten = any(other != mine and other[0] <= mine[0] and other[1] <= mine[1] for other in others)
    return "" if beaten or len(outcomes) == 1 else "  *"


def chart(outcome: Outcome, duration: float, peak: int) -> str:
    """The number of replicas at 40 moments of the trace."""
    moments = [duration * (column + 0.5) / _WIDTH for column in range(_WIDTH)]
    numbers = [[number for time, number in outcome.replicas if time <= moment][-1] for moment in moments]
    return "".join(_BLOCKS[max(0, -(-number * len(_BLOCKS) // peak) - 1)] for number in numbers)

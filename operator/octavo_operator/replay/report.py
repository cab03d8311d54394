"""Outcomes as a table for the terminal, and the replicas over time as a line of blocks."""

from collections.abc import Sequence
from typing import Final

from octavo_operator.replay.run import Outcome

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_WIDTH: Final = 40


def table(outcomes: Sequence[Outcome], *, duration: float, gpus: int, price: float | None = None) -> str:
    """One row per scaler; `duration` is the trace's in seconds, `gpus` those of one replica (0: replica-hours).

    `price` is that of a replica for an hour; without one there is no column for the cost.
    """
    unit = "GPU-hours" if gpus else "replica-hours"
    header = (
        f"{'scaler':<12}{'requests':>9}{'late':>7}{'late %':>8}{'TTFT p50':>10}{'TTFT p95':>10}{unit:>15}{'most':>6}"
    )
    peak = max(outcome.most for outcome in outcomes)
    rows = [_row(outcome, max(1, gpus), price) for outcome in outcomes]
    cost = "" if price is None else f"{'cost':>9}"
    lines = [f"{outcome.scaler:<12}{chart(outcome, duration, peak)}" for outcome in outcomes]
    return "\n".join([f"{header}{'turns':>7}{cost}", *rows, "", f"replicas over time, full height {peak}", *lines, ""])


def _row(outcome: Outcome, gpus: int, price: float | None) -> str:
    cost = "" if price is None else f"{outcome.replica_hours * price:>9.2f}"
    return (
        f"{outcome.scaler:<12}{outcome.requests:>9}{outcome.violations:>7}"
        f"{outcome.violations / outcome.requests:>8.1%}{outcome.ttft_p50:>9.2f}s{outcome.ttft_p95:>9.2f}s"
        f"{outcome.replica_hours * gpus:>15.2f}{outcome.most:>6}{outcome.turns:>7}{cost}"
    )


def chart(outcome: Outcome, duration: float, peak: int) -> str:
    """The number of replicas at 40 moments of the trace."""
    moments = [duration * (column + 0.5) / _WIDTH for column in range(_WIDTH)]
    numbers = [[number for time, number in outcome.replicas if time <= moment][-1] for moment in moments]
    return "".join(_BLOCKS[max(0, -(-number * len(_BLOCKS) // peak) - 1)] for number in numbers)

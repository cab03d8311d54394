"""Octavo's policies and the rivals on made-up loads: the tables of operator/DESIGN.md, in Markdown.

Run as `python operator/bench/contest.py --seeds 41,42,43 [--shapes ramp,burst] [--startup 60]`. Half an hour of each
load, with the defaults of `octavo-operator replay` for what a replica is, once with the defaults of a ModelServer and
once with the fields of `CHOSEN`; a cell is the share of late requests and the replica-hours. A row of each seed, then
their mean. `won by`: no more late requests than the rival with the fewest, for no more hours.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final

from octavo_operator.core.policy import ScalingPolicy
from octavo_operator.core.spec import parse_spec
from octavo_operator.replay.replica import Machine
from octavo_operator.replay.run import play
from octavo_operator.replay.scalers import Octavo, Scaler, rivals
from octavo_operator.replay.trace import SHAPES, generate
from octavo_operator.replay.variants import trial, vary

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SECONDS: Final = 1800.0
LATE_SECONDS: Final = 2.0
PEAK: Final = 6.0
OTHER_PEAKS: Final = {"prefill-heavy": 4.0, "long-context": 0.8}
"""Requests per second at which about as many replicas are busy as with short prompts at the usual peak."""
SPEC: Final[dict[str, Any]] = {
    "model": {"source": {"pvc": {"claimName": "models"}}},
    "autoscaling": {
        "minReplicas": 1,
        "maxReplicas": 12,
        "targets": {"kvUtilizationPercent": 70, "waitingPerReplica": 3},
    },
}
SHORT_WINDOW: Final = "autoscaling.behavior.scaleDown.stabilizationWindow=2m"
FIRST_IN_LINE: Final = "autoscaling.targets.waitingPerReplica=1"
CHOSEN: Final[dict[str, tuple[str, ...]]] = {
    "diurnal": (SHORT_WINDOW,),
    "workday": (SHORT_WINDOW,),
    "prefill-heavy": (SHORT_WINDOW, "autoscaling.targets.kvUtilizationPercent=60", FIRST_IN_LINE),
    "burst": ("autoscaling.targets.kvUtilizationPercent=60", FIRST_IN_LINE),
    "outage": (SHORT_WINDOW, "autoscaling.maxReplicas=3"),
    "ramp": ("autoscaling.maxReplicas=5",),
    "flapping": ("autoscaling.maxReplicas=5",),
    "long-context": (
        SHORT_WINDOW,
        "autoscaling.targets.kvUtilizationPercent=80",
        "autoscaling.maxReplicas=7",
    ),
}
"""What somebody would set who knows the load, as `--try` takes it."""
NAMES: Final = ("octavo, defaults", "octavo, chosen", "HPA, queue", "KEDA, KV %", "Knative")


@dataclass(frozen=True, slots=True)
class Cell:
    """What one scaler did: the share of late requests, and the hours of all its replicas."""

    late: float
    hours: float

    def __str__(self) -> str:
        return f"{self.late:.1%}".replace("%", " %") + f" · {self.hours:.2f}"


def main() -> None:
    """Prints the rows as they come: of each seed, then their mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="1,2", help="of the traces (default: 1,2)")
    parser.add_argument("--shapes", default=",".join(SHAPES), help="default: all of them")
    parser.add_argument("--startup", type=float, default=60.0, help="seconds until a replica serves (default: 60)")
    args = parser.parse_args()
    print(_line("trace", *NAMES, "won by"), _line(*["---"] * (len(NAMES) + 2)), sep="\n", flush=True)
    for shape in args.shapes.split(","):
        rows = list[list[Cell]]()
        for seed in args.seeds.split(","):
            rows.append(_cells(shape, int(seed), args.startup))
            print(_row(f"{shape}, {seed}", rows[-1]), flush=True)
        print(_row(f"**{shape}**", [_mean(column) for column in zip(*rows, strict=True)]), flush=True)


def _cells(shape: str, seed: int, startup: float) -> list[Cell]:
    """Everybody's on one trace, in the order of `NAMES`."""
    trace, machine = generate(shape, duration=SECONDS, peak=OTHER_PEAKS.get(shape, PEAK), seed=seed), Machine()
    default, chosen = policy(), policy(CHOSEN.get(shape, ()))
    scalers: list[tuple[Scaler, ScalingPolicy]] = [(Octavo(default), default), (Octavo(chosen), chosen)]
    scalers += [(rival, default) for rival in rivals(default, machine, trace)]
    return [
        Cell(outcome.violations / outcome.requests, outcome.replica_hours)
        for scaler, bounds in scalers
        for outcome in [play(scaler, trace, machine, startup=startup, start=bounds.min_replicas, slo=LATE_SECONDS)]
    ]


def policy(changes: Iterable[str] = ()) -> ScalingPolicy:
    """The defaults with some fields changed."""
    (raw,) = vary(SPEC, [trial(text) for text in changes]).values()
    spec = parse_spec(raw)
    assert spec.autoscaling is not None, "SPEC has it"
    return ScalingPolicy.of(spec, spec.autoscaling, now=0.0)


def _mean(cells: Sequence[Cell]) -> Cell:
    return Cell(fmean(cell.late for cell in cells), fmean(cell.hours for cell in cells))


def _row(name: str, cells: Sequence[Cell]) -> str:
    ours, best = cells[:2], min(cells[2:], key=lambda cell: (cell.late, cell.hours))
    won = [
        name.removeprefix("octavo, ")
        for name, cell in zip(NAMES, ours, strict=False)
        if cell.late <= best.late and cell.hours <= best.hours
    ]
    return _line(name, *map(str, cells), " and ".join(won) or "-")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()

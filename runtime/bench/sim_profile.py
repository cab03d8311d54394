"""Fit the simulated runner's step times to measurements, and say how well they fit.

    python runtime/bench/step.py MODEL | python runtime/bench/sim_profile.py --out profile.json
    octavo serve MODEL --runner sim --sim-profile profile.json

Reads `step.py`'s JSON lines: decodes {batch, context, step_ms} and prefills {tokens, step_ms}. Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from octavo_runtime.runner.sim_runner import StepTime

if TYPE_CHECKING:
    from collections.abc import Iterable


def read_steps(lines: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
    """Rows of (1, prefill tokens, decodes, context read), and the seconds that each took."""
    rows, seconds = [], []
    for line in lines:
        record = json.loads(line)
        if (row := _row(record)) is not None:
            rows.append(row)
            seconds.append(record["step_ms"] / 1e3)
    return np.array(rows, dtype=float), np.array(seconds)


def _row(record: dict[str, Any]) -> tuple[int, int, int, int] | None:
    match record.get("what"):
        case "decode":
            return 1, 0, record["batch"], record["batch"] * record["context"]
        case "prefill":
            return 1, record["tokens"], 0, record["tokens"]
        case _:
            return None


def fit(rows: np.ndarray, seconds: np.ndarray) -> StepTime:
    """Least squares on relative errors, so that short steps count as much as long ones; no cost below 0.

    The most negative coefficient is fixed at 0 until none is left: with four of them that is good enough.
    """
    free = list(range(rows.shape[1]))
    while True:
        weighted = rows[:, free] / seconds[:, None]
        found, *_ = np.linalg.lstsq(weighted, np.ones(len(seconds)), rcond=None)
        if found.min() >= 0:
            costs = np.zeros(rows.shape[1])
            costs[free] = found
            return StepTime(*costs.tolist())
        del free[int(found.argmin())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where the profile is written")
    args = parser.parse_args()
    rows, seconds = read_steps(sys.stdin)
    if len(rows) < 4:
        parser.error(f"{len(rows)} steps on standard input; at least 4 are needed")
    step_time = fit(rows, seconds)
    errors = np.abs(rows @ np.array(list(asdict(step_time).values())) / seconds - 1)
    if args.out:
        args.out.write_text(json.dumps(asdict(step_time)) + "\n")
    print(json.dumps(asdict(step_time) | {"steps": len(rows), "worst_relative_error": round(float(errors.max()), 3)}))


if __name__ == "__main__":
    main()

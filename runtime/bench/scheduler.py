"""What one step costs in Python: schedule, flatten and update for many decoding sequences. Prints one JSON line.

Run as `python runtime/bench/scheduler.py [--running 256] [--steps 500] [--context 500]`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

from octavo_runtime.core.batch import SamplingParams, StepResult
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import Sequence

BLOCK_SIZE = 16


def make_running(running: int, context: int, steps: int) -> Scheduler:
    """A scheduler with `running` sequences that have `context` tokens each and decode from now on."""
    num_blocks = running * (-(-(context + steps) // BLOCK_SIZE) + 1)
    scheduler = Scheduler(BlockPool(num_blocks, BLOCK_SIZE), max_num_seqs=running, max_num_batched_tokens=2048)
    for seq_id in range(running):
        scheduler.add(Sequence(seq_id, list(range(context)), SamplingParams(max_tokens=steps + 1)))
    while scheduler.stats().generation_tokens < running:
        plan = scheduler.schedule(0.0)
        scheduler.update(plan, StepResult([0] * len(flatten(plan, BLOCK_SIZE).sampling)))
    return scheduler


def measure(scheduler: Scheduler, steps: int) -> dict[str, list[float]]:
    """Seconds of each part of each step. Stops before any sequence ends."""
    times: dict[str, list[float]] = {"schedule": [], "flatten": [], "update": []}
    for _ in range(steps):
        start = time.perf_counter()
        plan = scheduler.schedule(0.0)
        scheduled = time.perf_counter()
        batch = flatten(plan, BLOCK_SIZE)
        flattened = time.perf_counter()
        result = StepResult([0] * len(batch.sampling))
        sampled = time.perf_counter()
        scheduler.update(plan, result)
        updated = time.perf_counter()
        times["schedule"].append(scheduled - start)
        times["flatten"].append(flattened - scheduled)
        times["update"].append(updated - sampled)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", type=int, default=256, help="sequences that decode at once")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--context", type=int, default=500, help="tokens that each sequence has at the start")
    args = parser.parse_args()
    times = measure(make_running(args.running, args.context, args.steps), args.steps - 1)
    medians = {f"{name}_us": round(statistics.median(values) * 1e6, 1) for name, values in times.items()}
    result = {
        "bench": "scheduler",
        "running": args.running,
        "context": args.context,
        "steps": args.steps,
        **medians,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()

"""What planning ahead hides: time per step with and without it, on a simulated device. Prints one JSON line for each.

The device takes `--device-ms` for each step and works while the host plans the next, as a GPU does. The tokens' hashes
are worked out on the host, in both cases, so they are part of what can be hidden. `host_us` is what a step costs when
the device takes no time; `step_us - 1000 * device_ms` is what is left of it to be seen.

Run as `python runtime/bench/overlap.py [--running 64] [--steps 300] [--device-ms 10]`.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner, StepTime

BLOCK_SIZE = 16
PROMPT = 32  # tokens


def make_decoding(running: int, steps: int, device_seconds: float, *, plan_ahead: bool) -> Engine:
    """An engine with `running` sequences that decode from now on, for `steps` steps and a few more."""
    num_blocks = running * (-(-(PROMPT + steps) // BLOCK_SIZE) + 2)
    runner = SimRunner(num_blocks, BLOCK_SIZE, 32_000, StepTime(base=device_seconds))
    engine = Engine(runner, max_num_seqs=running, max_num_batched_tokens=running * PROMPT, plan_ahead=plan_ahead)
    for number in range(running):
        prompt = [number * PROMPT + index for index in range(PROMPT)]
        engine.add(Add(number, prompt, SamplingParams(max_tokens=steps + 8, temperature=0.0)))
    for _ in range(4):  # the prompts' step, and the first on top of others
        engine.step(time.monotonic())
    return engine


def measure(engine: Engine, steps: int) -> list[float]:
    """Seconds of each step, from one's tokens to the next one's."""
    times = []
    for _ in range(steps):
        start = time.perf_counter()
        done = engine.step(time.monotonic())
        times.append(time.perf_counter() - start)
        assert done.decoded, "each call yields the tokens of one step"
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--running", type=int, default=64, help="sequences that decode at once")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device-ms", type=float, default=10.0, help="milliseconds that the device takes for a step")
    args = parser.parse_args()
    for plan_ahead in (False, True):
        medians = [
            statistics.median(
                measure(make_decoding(args.running, args.steps, seconds, plan_ahead=plan_ahead), args.steps)
            )
            for seconds in (0.0, args.device_ms / 1000)
        ]
        result = {
            "bench": "overlap",
            "plan_ahead": plan_ahead,
            "running": args.running,
            "steps": args.steps,
            "device_ms": args.device_ms,
            "host_us": round(medians[0] * 1e6),
            "step_us": round(medians[1] * 1e6),
            "python": platform.python_version(),
            "machine": platform.machine(),
        }
        print(json.dumps(result))


if __name__ == "__main__":
    main()

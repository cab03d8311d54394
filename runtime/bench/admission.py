"""What admission's look ahead is worth: the real scheduler on the simulated runner, in virtual time.

Run as `python runtime/bench/admission.py [--requests 1000] [--blocks 1000]`. Prints one JSON line per rule and traffic:
preemptions, tokens computed for nothing, and tokens generated per simulated second.
"""

from __future__ import annotations

import argparse
import json
import random

from octavo_runtime.core import peak
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import Sequence
from octavo_runtime.runner.sim_runner import SimRunner, StepTime

BLOCK_SIZE = 16
STOP = 0
STEP_TIME = StepTime(base=0.02, per_prefill_token=1e-4, per_decode=2e-4, per_kv_token=1e-7)


class Bound(peak.OutputLengths):
    """Every answer is expected to be as long as it may be."""

    def remaining(self, sequence: Sequence) -> int:
        return sequence.max_num_tokens - sequence.num_tokens


class StoppingRunner(SimRunner):
    """Ends each answer at a length that its seed says, whatever `max_tokens` is."""

    def execute(self, batch):  # noqa: ANN001, ANN201
        result = super().execute(batch)
        for index, row in enumerate(batch.sampling):
            result.tokens[index] = STOP if row.position >= row.seed else max(result.tokens[index], STOP + 1)
        return result


def make_requests(count: int, mean: int, seed: int) -> list[Sequence]:
    """Prompts of 20 to 400 tokens and answers of exponential length, all allowed 2,048 tokens."""
    rng = random.Random(seed)
    requests = []
    for seq_id in range(count):
        prompt = [rng.randrange(1, 30000) for _ in range(rng.randrange(20, 400))]
        length = min(max(int(rng.expovariate(1 / mean)), 1), 2048)
        params = SamplingParams(2048, temperature=0.0, seed=len(prompt) + length, stop_token_ids=frozenset({STOP}))
        requests.append(Sequence(seq_id, prompt, params))
    return requests


def run(rule: str, requests: list[Sequence], num_blocks: int) -> dict[str, float]:
    clock = [0.0]
    runner = StoppingRunner(
        num_blocks, BLOCK_SIZE, 30000, STEP_TIME, sleep=lambda s: clock.__setitem__(0, clock[0] + s)
    )
    scheduler = Scheduler(
        BlockPool(num_blocks, BLOCK_SIZE), max_num_seqs=128, max_num_batched_tokens=512, project_peak=rule != "present"
    )
    if rule == "max_tokens":
        scheduler._admission.lengths = Bound()  # noqa: SLF001  the other rule exists only here
    for sequence in requests:
        scheduler.add(sequence)
    computed = running = steps = 0
    while scheduler.has_work:
        plan = scheduler.schedule(clock[0])
        computed += plan.num_tokens
        running += plan.num_sequences
        steps += 1
        scheduler.update(plan, runner.execute(flatten(plan, BLOCK_SIZE)))
    stats = scheduler.stats()
    needed = stats.prompt_tokens + stats.generation_tokens - len(requests)
    return {
        "preemptions": stats.preemptions,
        "recomputed_share": round(computed / needed - 1, 4),
        "mean_running": round(running / steps, 1),
        "tokens_per_s": round(stats.generation_tokens / clock[0], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--blocks", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    for mean in (50, 200, 600):
        for rule in ("present", "max_tokens", "learned"):
            result = run(rule, make_requests(args.requests, mean, args.seed), args.blocks)
            print(json.dumps({"bench": "admission", "mean_answer": mean, "rule": rule, **result}), flush=True)


if __name__ == "__main__":
    main()

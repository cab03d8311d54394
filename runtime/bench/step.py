"""How fast one engine step is, without scheduler, sampling parameters or HTTP: `python runtime/bench/step.py MODEL`.

Prints one JSON line per shape. Numbers of a shared machine are worth their ratios, not their values.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.model.info import read_model_info
from octavo_runtime.runner.build import build_runner

if TYPE_CHECKING:
    from octavo_runtime.runner.torch_runner import TorchRunner

GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--backend", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--repeat", type=int, default=7)
    args = parser.parse_args()
    started = time.perf_counter()
    config = ServeConfig(
        model=args.model, attention_backend=args.backend, threads=args.threads, kv_cache_memory=2 << 30
    )
    runner = build_runner(config, read_model_info(args.model), lambda _phase, _done: None)
    import torch  # noqa: PLC0415  build_runner says how OpenMP's threads wait, which is read when torch is imported

    report(
        what="start without imports", seconds=round(time.perf_counter() - started, 2), threads=torch.get_num_threads()
    )
    for batch_size, context in ((1, 128), (8, 128), (32, 128), (1, 512), (8, 512), (32, 512)):
        batch = decode_batch(runner, batch_size, context)
        seconds = time_step(runner, batch, args.repeat)
        report(
            what="decode",
            batch=batch_size,
            context=context,
            step_ms=round(seconds * 1e3, 1),
            tokens_per_s=round(batch_size / seconds, 1),
        )
    for num_tokens in (64, 512):
        seconds = time_step(runner, prefill_batch(runner, num_tokens), args.repeat)
        report(
            what="prefill",
            tokens=num_tokens,
            step_ms=round(seconds * 1e3, 1),
            tokens_per_s=round(num_tokens / seconds, 1),
        )


def report(**values: object) -> None:
    print(json.dumps(values), flush=True)


def time_step(runner: TorchRunner, batch: FlatBatch, repeat: int) -> float:
    """Median seconds of a step."""
    runner.execute(batch)
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        runner.execute(batch)
        times.append(time.perf_counter() - started)
    return median(times)


def decode_batch(runner: TorchRunner, batch_size: int, context: int) -> FlatBatch:
    blocks = -(-context // runner.block_size)
    tables = [list(range(row * blocks, (row + 1) * blocks)) for row in range(batch_size)]
    last = context - 1
    return FlatBatch(
        token_ids=[row + 100 for row in range(batch_size)],
        positions=[last] * batch_size,
        slot_mapping=[
            table[last // runner.block_size] * runner.block_size + last % runner.block_size for table in tables
        ],
        query_start_loc=list(range(batch_size + 1)),
        seq_lens=[context] * batch_size,
        block_tables=tables,
        sample_rows=list(range(batch_size)),
        sampling=[GREEDY] * batch_size,
    )


def prefill_batch(runner: TorchRunner, num_tokens: int) -> FlatBatch:
    return FlatBatch(
        token_ids=[100 + token for token in range(num_tokens)],
        positions=list(range(num_tokens)),
        slot_mapping=list(range(num_tokens)),
        query_start_loc=[0, num_tokens],
        seq_lens=[num_tokens],
        block_tables=[list(range(-(-num_tokens // runner.block_size)))],
        sample_rows=[num_tokens - 1],
        sampling=[GREEDY],
    )


if __name__ == "__main__":
    main()

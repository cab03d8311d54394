"""Backends against each other on this machine: `python kernels/bench/attention.py [--backends cpu,native]`.

One JSON line per shape and backend, in milliseconds of one layer's attention; a step's shared work (`prepare`) is timed
apart. Numbers of a shared machine are worth their ratios, not their values.
"""

from __future__ import annotations

import argparse
import json
import time
from statistics import median
from typing import TYPE_CHECKING

import torch

from octavo_kernels.cpu import CPUBackend
from octavo_kernels.interface import PagedBatch
from octavo_kernels.native import NativeBackend
from octavo_kernels.reference import ReferenceBackend

if TYPE_CHECKING:
    from collections.abc import Callable

NUM_HEADS, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE = 9, 3, 64, 16
BACKENDS = {"reference": ReferenceBackend, "cpu": CPUBackend, "native": NativeBackend}
SHAPES = {
    "decode 1 x 128": [(1, 128)],
    "decode 8 x 128": [(1, 128)] * 8,
    "decode 32 x 128": [(1, 128)] * 32,
    "decode 32 x 512": [(1, 512)] * 32,
    "decode 32 ragged": [(1, 16 * (1 + number)) for number in range(32)],
    "prefill 512": [(512, 512)],
    "mixed": [(1, 200)] * 16 + [(256, 512)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backends", default=",".join(BACKENDS))
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    for shape, sequences in SHAPES.items():
        for name in args.backends.split(","):
            measure(shape, sequences, name, args.repeat)


def measure(shape: str, sequences: list[tuple[int, int]], name: str, repeat: int) -> None:
    backend = BACKENDS[name]()
    batch, num_blocks = make_batch(sequences)
    key_cache, value_cache = torch.randn(2, num_blocks, NUM_KV_HEADS, BLOCK_SIZE, HEAD_DIM)
    query = torch.randn(int(batch.query_start_loc[-1]), NUM_HEADS, HEAD_DIM)
    out = torch.empty_like(query)
    planned = backend.prepare(batch, key_cache, NUM_HEADS)
    attend = seconds(lambda: backend.attend(query, key_cache, value_cache, planned, scale=0.125, out=out), repeat)
    prepare = seconds(lambda: backend.prepare(batch, key_cache, NUM_HEADS), repeat)
    times = {"attend_ms": round(attend * 1e3, 3), "prepare_ms": round(prepare * 1e3, 3)}
    print(json.dumps({"shape": shape, "backend": name, **times, "threads": torch.get_num_threads()}), flush=True)


def seconds(function: Callable[[], object], repeat: int) -> float:
    """Median of `repeat` runs after one that warms up."""
    function()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return median(times)


def make_batch(sequences: list[tuple[int, int]]) -> tuple[PagedBatch, int]:
    """A batch of (query length, context length), its blocks scattered over as many as it needs."""
    counts = [-(-length // BLOCK_SIZE) for _, length in sequences]
    blocks = torch.randperm(sum(counts)).split(counts)
    starts = torch.tensor([0, *(queries for queries, _ in sequences)]).cumsum(0)
    batch = PagedBatch(
        query_start_loc=starts.int(),
        seq_lens=torch.tensor([length for _, length in sequences], dtype=torch.int32),
        block_table=torch.nn.utils.rnn.pad_sequence(list(blocks), batch_first=True).int(),
        slot_mapping=torch.zeros(int(starts[-1]), dtype=torch.int64),
        max_query_len=max(queries for queries, _ in sequences),
        max_seq_len=max(length for _, length in sequences),
    )
    return batch, sum(counts)


if __name__ == "__main__":
    main()

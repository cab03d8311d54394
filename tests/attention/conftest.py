"""Paged batches with poisoned surroundings, and the dense fp64 oracle that every backend is held to."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from octavo_kernels.interface import PagedBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Triton decides when it is imported whether its kernels run in the interpreter.
if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("triton was imported before tests/attention could choose the interpreter")
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Shape:
    """Sequences as (query length, context length with it), and the model's heads."""

    sequences: tuple[tuple[int, int], ...]
    num_heads: int = 4
    num_kv_heads: int = 2
    head_dim: int = 16
    block_size: int = 16
    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class Case:
    """A batch whose context is written, in caches that hold NaN wherever nothing was, and in the blocks around them."""

    shape: Shape
    batch: PagedBatch
    query: Tensor
    key: Tensor  # this step's own, [T, num_kv_heads, head_dim]
    value: Tensor
    key_cache: Tensor
    value_cache: Tensor
    expected: Tensor  # fp64

    @property
    def scale(self) -> float:
        return self.shape.head_dim**-0.5


@pytest.fixture(scope="session")
def make_case() -> Callable[..., Case]:
    """`make_case(sequences, seed=…, device=…, **shape)`, see `Shape`."""

    def make(
        sequences: Sequence[tuple[int, int]], *, seed: int = 0, device: torch.device = DEVICE, **shape: object
    ) -> Case:
        return build_case(Shape(tuple(sequences), **shape), seed, device)

    return make


def build_case(shape: Shape, seed: int, device: torch.device) -> Case:
    generator = torch.Generator().manual_seed(seed)
    blocks = [-(-length // shape.block_size) for _, length in shape.sequences]
    num_blocks = sum(blocks) + 3
    order = torch.randperm(num_blocks, generator=generator).tolist()
    nowhere = num_blocks + 1_000  # fills the block tables where no block belongs
    tables = [[order.pop() for _ in range(count)] for count in blocks]
    longest = max(blocks) + 2

    def random(*size: int) -> Tensor:
        return torch.randn(size, generator=generator).to(shape.dtype)

    num_tokens = sum(queries for queries, _ in shape.sequences)
    query = random(num_tokens, shape.num_heads + 3, shape.head_dim)[
        :, 1 : shape.num_heads + 1
    ]  # a view, as in the model
    contexts = [
        (random(length, shape.num_kv_heads, shape.head_dim), random(length, shape.num_kv_heads, shape.head_dim))
        for _, length in shape.sequences
    ]
    caches = [poisoned(num_blocks, shape, device) for _ in range(2)]
    slots = [[t[p // shape.block_size] * shape.block_size + p % shape.block_size for p in range(length)]
             for t, (_, length) in zip(tables, shape.sequences, strict=True)]  # fmt: skip
    for context, where in zip(contexts, slots, strict=True):
        for cache, stored in zip(caches, context, strict=True):
            for slot, row in zip(where, stored, strict=True):
                cache[slot // shape.block_size, :, slot % shape.block_size] = row.to(device)
    batch = PagedBatch(
        query_start_loc=torch.tensor([0, *accumulate(q for q, _ in shape.sequences)], dtype=torch.int32, device=device),
        seq_lens=torch.tensor([length for _, length in shape.sequences], dtype=torch.int32, device=device),
        block_table=torch.tensor(
            [t + [nowhere] * (longest - len(t)) for t in tables], dtype=torch.int32, device=device
        ),
        slot_mapping=torch.tensor(
            [slot for where, (q, length) in zip(slots, shape.sequences, strict=True) for slot in where[length - q :]],
            dtype=torch.int64,
            device=device,
        ),
        max_query_len=max(q for q, _ in shape.sequences),
        max_seq_len=max(length for _, length in shape.sequences),
    )
    return Case(
        shape=shape,
        batch=batch,
        query=query.to(device),
        key=torch.cat([k[length - q :] for (k, _), (q, length) in zip(contexts, shape.sequences, strict=True)]).to(
            device
        ),
        value=torch.cat([v[length - q :] for (_, v), (q, length) in zip(contexts, shape.sequences, strict=True)]).to(
            device
        ),
        key_cache=caches[0],
        value_cache=caches[1],
        expected=dense(query, contexts, shape).to(device),
    )


def poisoned(num_blocks: int, shape: Shape, device: torch.device) -> Tensor:
    """A cache full of NaN, with a block of NaN before and behind it that belongs to nobody."""
    size = (num_blocks + 2, shape.num_kv_heads, shape.block_size, shape.head_dim)
    return torch.full(size, torch.nan, dtype=shape.dtype, device=device)[1:-1]


def dense(query: Tensor, contexts: list[tuple[Tensor, Tensor]], shape: Shape) -> Tensor:
    """softmax(q k / sqrt(d)) v, one query head at a time, in fp64 from the stored values."""
    rows, start = [], 0
    for (num_queries, length), (keys, values) in zip(shape.sequences, contexts, strict=True):
        for i in range(num_queries):
            seen = length - num_queries + i + 1
            heads = []
            for head in range(shape.num_heads):
                kv_head = head * shape.num_kv_heads // shape.num_heads
                scores = keys[:seen, kv_head].double() @ query[start + i, head].double() * shape.head_dim**-0.5
                heads.append(scores.softmax(0) @ values[:seen, kv_head].double())
            rows.append(torch.stack(heads))
        start += num_queries
    return torch.stack(rows)

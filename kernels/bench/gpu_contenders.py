"""Attention over the same numbers, ours and others': each makes one call for each pool, and plans beforehand.

What is not installed raises `ImportError` here, and what a library does not do is its own error; both are reported.
"""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F  # noqa: N812  torch's own convention
import triton
from torch.nn.attention.bias import causal_lower_right

from octavo_kernels import int8
from octavo_kernels.bench.result import OURS
from octavo_kernels.cache_dtype import FP8, INT8, cache_shape, to_cache
from octavo_kernels.interface import PagedBatch
from octavo_kernels.triton.backend import TritonBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from octavo_kernels.bench.shapes import BenchShape, Cache
    from octavo_kernels.triton.plan import Plan

    Call = Callable[[], Tensor]
    Contender = Callable[["BenchShape", "list[Pool]"], list[Call]]

WORKSPACE: Final = 256 << 20  # bytes, FlashInfer's
PART: Final = 1 << 28  # numbers that are made at a time
_DTYPES: Final[dict[Cache, torch.dtype]] = {"bf16": torch.bfloat16, "e4m3": FP8, "int8": INT8}
_VLLM_PROGRAMS: Final = 128  # so many of its programs it takes for enough without cutting contexts
_VLLM_SEGMENTS: Final = 16  # that it cuts them into otherwise


@dataclass(frozen=True)
class Pool:
    """One cache with the queries that attend over it, in bf16."""

    batch: PagedBatch
    query: Tensor
    key_cache: Tensor  # [num_blocks, num_kv_heads, block_size, head_dim], or as int8.py has it
    value_cache: Tensor


def make_pools(shape: BenchShape, count: int, device: torch.device) -> list[Pool]:
    """`count` caches of random numbers, never zeros, with their blocks in random order."""
    return [
        Pool(
            make_batch(shape, device, seed),
            torch.randn(shape.num_tokens, shape.num_heads, shape.head_dim, dtype=torch.bfloat16, device=device),
            make_cache(shape, device),
            make_cache(shape, device),
        )
        for seed in range(count)
    ]


def make_cache(shape: BenchShape, device: torch.device) -> Tensor:
    """Random keys or values, a part at a time: the largest caches of eight bits would not fit beside their numbers in
    more bits.
    """
    dtype = _DTYPES[shape.cache]
    size = cache_shape(shape.num_blocks, shape.num_kv_heads, shape.block_size, shape.head_dim, dtype)
    cache = torch.empty(size, dtype=dtype, device=device)
    blocks = max(1, PART // (shape.num_kv_heads * shape.block_size * shape.head_dim))
    for part in cache.split(blocks):
        x = torch.randn(*part.shape[:3], shape.head_dim, dtype=torch.bfloat16, device=device)
        part.copy_(int8.packed(x) if dtype == INT8 else to_cache(x, dtype))
    return cache


def make_batch(shape: BenchShape, device: torch.device, seed: int = 0) -> PagedBatch:
    """Every token of the step in its slot, the blocks permuted."""
    generator = torch.Generator().manual_seed(seed)
    counts = [-(-context // shape.block_size) for _, context in shape.sequences]
    blocks = torch.randperm(sum(counts), generator=generator).split(counts)
    slots = [
        table[positions // shape.block_size] * shape.block_size + positions % shape.block_size
        for table, (queries, context) in zip(blocks, shape.sequences, strict=True)
        for positions in [torch.arange(context - queries, context)]
    ]
    return PagedBatch(
        query_start_loc=torch.tensor([0, *(q for q, _ in shape.sequences)]).cumsum(0).int().to(device),
        seq_lens=torch.tensor([context for _, context in shape.sequences], dtype=torch.int32, device=device),
        block_table=torch.nn.utils.rnn.pad_sequence(list(blocks), batch_first=True).int().to(device),
        slot_mapping=torch.cat(slots).to(device),
        max_query_len=max(queries for queries, _ in shape.sequences),
        max_seq_len=max(context for _, context in shape.sequences),
    )


def ours(shape: BenchShape, pool: Pool, backend: TritonBackend | None = None) -> Call:
    backend = backend or TritonBackend()
    batch = backend.prepare(pool.batch, pool.key_cache, shape.num_heads)
    out = torch.empty_like(pool.query)

    def call() -> Tensor:
        backend.attend(pool.query, pool.key_cache, pool.value_cache, batch, scale=_scale(shape), out=out)
        return out

    return call


def pointers(shape: BenchShape, pool: Pool) -> Call:
    """Ours without boxes, where it has some."""
    batch = TritonBackend().prepare(pool.batch, pool.key_cache, shape.num_heads)
    if not cast("Plan", batch.plan).launch.boxes:
        raise NotImplementedError("ours has no boxes here")
    return ours(shape, pool, TritonBackend(boxes=False))


def torch_sdpa(shape: BenchShape, pool: Pool) -> Call:
    """Its own causal mask, with which it need not take the way through a matrix of scores."""
    query, key, value = _contiguous(shape, pool)
    queries, context = shape.sequences[0]
    mask = None if queries == 1 else causal_lower_right(queries, context)

    def call() -> Tensor:
        out = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, enable_gqa=True)
        return out.transpose(1, 2).reshape(pool.query.shape)

    return call


def flex(shape: BenchShape, pools: list[Pool]) -> list[Call]:
    """Compiled once for all pools of a shape, and from nothing for the next: a few shapes more, and torch gives up."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention  # noqa: PLC0415

    queries, context = shape.sequences[0]
    before = context - queries
    rectangles = [_contiguous(shape, pool) for pool in pools]
    device = pools[0].query.device
    mask = create_block_mask(lambda _b, _h, q, k: k <= q + before, None, None, queries, context, device=str(device))
    torch.compiler.reset()
    compiled = torch.compile(flex_attention, dynamic=False)

    def call(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = compiled(query, key, value, block_mask=mask, enable_gqa=True)
        return out.transpose(1, 2).reshape(pools[0].query.shape)

    return [partial(call, *rectangle) for rectangle in rectangles]


def flashinfer(shape: BenchShape, pool: Pool) -> Call:
    """Its plan, which the host makes, is not in the time."""
    if shape.cache == "int8":
        raise NotImplementedError("no int8 with scales")
    library = importlib.import_module("flashinfer")
    workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=pool.query.device)
    lengths, size = pool.batch.seq_lens.cpu(), shape.block_size
    counts = (lengths + size - 1) // size
    starts = F.pad(counts.cumsum(0), (1, 0)).int()
    pages = torch.cat([row[:count] for row, count in zip(pool.batch.block_table.cpu(), counts, strict=True)]).int()
    last = (lengths - 1) % size + 1
    heads = (shape.num_heads, shape.num_kv_heads, shape.head_dim, size)
    caches = (pool.key_cache, pool.value_cache)
    out = torch.empty_like(pool.query)
    types = {"q_data_type": pool.query.dtype, "kv_data_type": pool.key_cache.dtype}
    if shape.kind == "decode":
        wrapper = library.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=True)
        wrapper.plan(starts, pages.to(out.device), last, *heads, **types)
    else:
        wrapper = library.BatchPrefillWithPagedKVCacheWrapper(workspace, "HND")
        rows = pool.batch.query_start_loc.cpu()
        wrapper.plan(rows, starts, pages.to(out.device), last, *heads, causal=True, **types)
    return lambda: wrapper.run(pool.query, caches, out=out)


def flash_attention_3(shape: BenchShape, pool: Pool) -> Call:
    library = importlib.import_module("flash_attn_interface")
    batch = pool.batch
    key, value = _token_major(shape, pool)
    return lambda: library.flash_attn_with_kvcache(
        pool.query,
        key,
        value,
        cache_seqlens=batch.seq_lens,
        page_table=batch.block_table,
        cu_seqlens_q=batch.query_start_loc,
        max_seqlen_q=batch.max_query_len,
        softmax_scale=_scale(shape),
        causal=True,
    )


def vllm_triton(shape: BenchShape, pool: Pool) -> Call:
    """With the memory in which it keeps segments of a context: without, it never cuts one."""
    library = importlib.import_module("vllm.v1.attention.ops.triton_unified_attention")
    batch, out = pool.batch, torch.empty_like(pool.query)
    key, value = _token_major(shape, pool)
    sequences = _VLLM_PROGRAMS // shape.num_kv_heads
    rows = (sequences, shape.num_heads, _VLLM_SEGMENTS)

    def segments(*columns: int) -> Tensor:
        return torch.empty((*rows, *columns), dtype=torch.float32, device=out.device)

    acc, largest, total = segments(triton.next_power_of_2(shape.head_dim)), segments(), segments()

    def call() -> Tensor:
        library.unified_attention(
            q=pool.query,
            k=key,
            v=value,
            out=out,
            cu_seqlens_q=batch.query_start_loc,
            max_seqlen_q=batch.max_query_len,
            seqused_k=batch.seq_lens,
            max_seqlen_k=batch.max_seq_len,
            softmax_scale=_scale(shape),
            causal=True,
            window_size=(-1, -1),
            block_table=batch.block_table,
            softcap=0.0,
            q_descale=None,
            k_descale=None,
            v_descale=None,
            seq_threshold_3D=sequences,
            num_par_softmax_segments=_VLLM_SEGMENTS,
            softmax_segm_output=acc,
            softmax_segm_max=largest,
            softmax_segm_expsum=total,
        )
        return out

    return call


def _each(make: Callable[[BenchShape, Pool], Call]) -> Contender:
    return lambda shape, pools: [make(shape, pool) for pool in pools]


CONTENDERS: Final[dict[str, Contender]] = {
    OURS: _each(ours),
    "triton, pointers": _each(pointers),
    "torch sdpa": _each(torch_sdpa),
    "flex_attention": flex,
    "flashinfer": _each(flashinfer),
    "fa3": _each(flash_attention_3),
    "vllm triton": _each(vllm_triton),
}


def _contiguous(shape: BenchShape, pool: Pool) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each `[sequences, heads, length, head_dim]`; of batches that are one rectangle."""
    if len(set(shape.sequences)) > 1 or shape.cache != "bf16":
        raise NotImplementedError("no rectangle of 16-bit numbers")
    queries, context = shape.sequences[0]
    table = pool.batch.block_table.long()
    key, value = (
        cache[table].transpose(1, 2).flatten(2, 3)[:, :, :context].contiguous()
        for cache in (pool.key_cache, pool.value_cache)
    )
    query = pool.query.view(len(table), queries, shape.num_heads, shape.head_dim).transpose(1, 2).contiguous()
    return query, key, value


def _token_major(shape: BenchShape, pool: Pool) -> tuple[Tensor, Tensor]:
    """The same caches as `[num_blocks, block_size, num_kv_heads, head_dim]`."""
    if shape.cache != "bf16":
        raise NotImplementedError("16-bit numbers only")
    return pool.key_cache.transpose(1, 2).contiguous(), pool.value_cache.transpose(1, 2).contiguous()


def _scale(shape: BenchShape) -> float:
    return 1 / math.sqrt(shape.head_dim)

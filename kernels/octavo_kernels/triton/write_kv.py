"""Scatter a step's keys and values into their slots."""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def write_kv_kernel(
    key,
    value,
    key_cache,
    value_cache,
    slot_mapping,
    key_stride,  # elements from one token to the next
    value_stride,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    PADDED_HEADS: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    LARGEST: tl.constexpr = 0.0,  # what is larger is stored as this; 0: anything is stored as it is
):
    """One program per token: its heads lie side by side in `key`, and a block apart in the cache."""
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_mapping + token)
    if slot >= 0:
        heads = tl.arange(0, PADDED_HEADS)
        dims = tl.arange(0, PADDED_DIM)
        valid = (heads < NUM_KV_HEADS)[:, None] & (dims < HEAD_DIM)[None, :]
        source = heads[:, None] * HEAD_DIM + dims[None, :]
        block, offset = slot // BLOCK_SIZE, slot % BLOCK_SIZE
        target = (((block * NUM_KV_HEADS + heads) * BLOCK_SIZE + offset) * HEAD_DIM)[:, None] + dims[None, :]
        k = tl.load(key + token * key_stride + source, mask=valid)
        v = tl.load(value + token * value_stride + source, mask=valid)
        if LARGEST > 0:
            k = within(k, LARGEST)
            v = within(v, LARGEST)
        tl.store(key_cache + target, k.to(key_cache.dtype.element_ty), mask=valid)
        tl.store(value_cache + target, v.to(value_cache.dtype.element_ty), mask=valid)


@triton.jit
def within(x, LARGEST: tl.constexpr):
    """`x` in fp32, moved into [-LARGEST, LARGEST]; NaN stays NaN."""
    x = tl.minimum(x.to(tl.float32), LARGEST, propagate_nan=tl.PropagateNan.ALL)
    return tl.maximum(x, -LARGEST, propagate_nan=tl.PropagateNan.ALL)

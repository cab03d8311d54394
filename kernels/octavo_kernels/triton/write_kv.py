"""Scatter a step's keys and values into their slots."""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl

from octavo_kernels.triton.e4m3 import as_stored


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
        tl.store(key_cache + target, as_stored(k, key_cache.dtype.element_ty, LARGEST), mask=valid)
        tl.store(value_cache + target, as_stored(v, value_cache.dtype.element_ty, LARGEST), mask=valid)

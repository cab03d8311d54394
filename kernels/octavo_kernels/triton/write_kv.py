"""Scatter a step's keys and values into their slots."""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl

from octavo_kernels.triton.e4m3 import as_stored
from octavo_kernels.triton.int8 import as_int8, magnitude_bits, scale_bits


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
    SCALED: tl.constexpr = False,  # caches in int8 with scales (int8.py)
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
        piece = block * NUM_KV_HEADS + heads
        k = tl.load(key + token * key_stride + source, mask=valid, other=0.0)
        v = tl.load(value + token * value_stride + source, mask=valid, other=0.0)
        if SCALED:
            store_scaled(key_cache, k, piece, offset, dims, valid, heads < NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE)
            store_scaled(value_cache, v, piece, offset, dims, valid, heads < NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE)
        else:
            target = ((piece * BLOCK_SIZE + offset) * HEAD_DIM)[:, None] + dims[None, :]
            tl.store(key_cache + target, as_stored(k, key_cache.dtype.element_ty, LARGEST), mask=valid)
            tl.store(value_cache + target, as_stored(v, value_cache.dtype.element_ty, LARGEST), mask=valid)


@triton.jit
def store_scaled(cache, x, piece, offset, dims, valid, used, HEAD_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr):
    """Rows `x`, one for each head, as numbers and a scale into row `offset` of their pieces."""
    bits = scale_bits(tl.max(magnitude_bits(x), 1))
    begin = piece * (BLOCK_SIZE * (HEAD_DIM + 2))
    tl.store(cache + (begin + offset * HEAD_DIM)[:, None] + dims[None, :], as_int8(x, bits[:, None]), mask=valid)
    scales = cache.to(tl.pointer_type(tl.uint16), bitcast=True)
    tl.store(scales + (begin + BLOCK_SIZE * HEAD_DIM) // 2 + offset, bits.to(tl.uint16), mask=used)

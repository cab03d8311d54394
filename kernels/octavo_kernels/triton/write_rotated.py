"""What stands between the projections and attention, in one launch: norm, rotation and KV write.

One program takes one token's query heads that share a KV head, that key and that value, as rows of one tile:

    rows        query 0 … query GROUP - 1, key, value, padding
    columns     HALF | HALF | REST: the pairs that turn (i, i + HALF), and the dimensions that do not

Keys and values go from registers into their slot, and are in memory once. A value's row is neither normed nor turned.
"""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

from octavo_kernels.triton.e4m3 import as_stored
from octavo_kernels.triton.int8 import as_int8, magnitude_bits, scale_bits

_PER_WARP: Final = 256  # numbers of a tile: 16 bytes a thread in 16 bits
_MOST_WARPS: Final = 8


def rotated_constants(num_kv_heads: int, group: int, head_dim: int, half: int) -> dict[str, int]:
    """The kernel's constants that follow from the shapes; `half` is 0 without rotation."""
    rest = head_dim - 2 * half
    return {
        "NUM_KV_HEADS": num_kv_heads,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "HALF": half,
        "PADDED_HALF": triton.next_power_of_2(max(half, 1)),
        "REST": rest,
        "PADDED_REST": triton.next_power_of_2(max(rest, 1)),
        "PADDED_ROWS": triton.next_power_of_2(group + 2),
    }


def rotated_warps(constants: dict[str, int]) -> int:
    widest = max(constants["PADDED_HALF"], constants["PADDED_REST"])
    return min(max(constants["PADDED_ROWS"] * widest // _PER_WARP, 1), _MOST_WARPS)


@triton.jit
def write_rotated_kernel(
    query,
    key,
    value,
    key_cache,
    value_cache,
    slot_mapping,
    query_norm,
    key_norm,
    cos,
    sin,
    out,
    query_stride,  # elements from one token to the next
    key_stride,
    value_stride,
    eps,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads per KV head
    HEAD_DIM: tl.constexpr,
    HALF: tl.constexpr,
    PADDED_HALF: tl.constexpr,
    REST: tl.constexpr,
    PADDED_REST: tl.constexpr,
    PADDED_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    NORM: tl.constexpr,
    LARGEST: tl.constexpr,  # what is larger is stored as this; 0: anything is stored as it is
    SCALED: tl.constexpr = False,  # caches in int8 with scales (int8.py)
):
    token = tl.program_id(0).to(tl.int64)
    kv_head = tl.program_id(1)
    slot = tl.load(slot_mapping + token)
    rows = tl.arange(0, PADDED_ROWS)
    query += token * query_stride + kv_head * GROUP * HEAD_DIM
    key += token * key_stride + kv_head * HEAD_DIM
    value += token * value_stride + kv_head * HEAD_DIM
    out += (token * NUM_KV_HEADS + kv_head) * GROUP * HEAD_DIM
    piece = (slot // BLOCK_SIZE * NUM_KV_HEADS + kv_head) * (BLOCK_SIZE * (HEAD_DIM + 2 * SCALED))
    key_row = key_cache + piece + slot % BLOCK_SIZE * HEAD_DIM
    value_row = value_cache + piece + slot % BLOCK_SIZE * HEAD_DIM

    largest = tl.zeros([PADDED_ROWS], tl.int32)
    squares = tl.zeros([PADDED_ROWS], tl.float32)
    if HALF > 0:
        turned = tl.arange(0, PADDED_HALF)
        inside = turned < HALF
        first = load_rows(query, key, value, rows, turned, inside, GROUP, HEAD_DIM)
        second = load_rows(query, key, value, rows, HALF + turned, inside, GROUP, HEAD_DIM)
        squares += tl.sum(first * first, 1) + tl.sum(second * second, 1)
    if REST > 0:
        kept = tl.arange(0, PADDED_REST)
        rest = load_rows(query, key, value, rows, 2 * HALF + kept, kept < REST, GROUP, HEAD_DIM)
        squares += tl.sum(rest * rest, 1)
    scale = tl.rsqrt(squares / HEAD_DIM + eps)
    if HALF > 0:
        if NORM:
            first = normed(first, scale, query_norm, key_norm, rows, turned, inside, GROUP)
            second = normed(second, scale, query_norm, key_norm, rows, HALF + turned, inside, GROUP)
        c = tl.load(cos + token * HALF + turned, mask=inside, other=0.0).to(tl.float32)[None, :]
        s = tl.load(sin + token * HALF + turned, mask=inside, other=0.0).to(tl.float32)[None, :]
        turns = (rows <= GROUP)[:, None]
        low = tl.where(turns, first * c - second * s, first)
        high = tl.where(turns, second * c + first * s, second)
        largest = larger_of(larger_of(largest, low, SCALED), high, SCALED)
    if REST > 0:
        if NORM:
            rest = normed(rest, scale, query_norm, key_norm, rows, 2 * HALF + kept, kept < REST, GROUP)
        largest = larger_of(largest, rest, SCALED)
    bits = store_scales(largest, key_cache, value_cache, piece, slot, rows, GROUP, HEAD_DIM, BLOCK_SIZE, SCALED)
    if HALF > 0:
        store_rows(low, bits, out, key_row, value_row, slot, rows, turned, inside, GROUP, HEAD_DIM, LARGEST)
        store_rows(high, bits, out, key_row, value_row, slot, rows, HALF + turned, inside, GROUP, HEAD_DIM, LARGEST)
    if REST > 0:
        dims = 2 * HALF + kept
        store_rows(rest, bits, out, key_row, value_row, slot, rows, dims, kept < REST, GROUP, HEAD_DIM, LARGEST)


@triton.jit
def load_rows(query, key, value, rows, dims, inside, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr):
    """The tile's columns `dims` in fp32. Each row is loaded from one of the three; the others give it zeros."""
    own, shared = rows[:, None] * HEAD_DIM + dims[None, :], rows[:, None] * 0 + dims[None, :]
    x = tl.load(query + own, mask=(rows < GROUP)[:, None] & inside[None, :], other=0.0).to(tl.float32)
    x += tl.load(key + shared, mask=(rows == GROUP)[:, None] & inside[None, :], other=0.0).to(tl.float32)
    x += tl.load(value + shared, mask=(rows == GROUP + 1)[:, None] & inside[None, :], other=0.0).to(tl.float32)
    return x


@triton.jit
def normed(x, scale, query_norm, key_norm, rows, dims, inside, GROUP: tl.constexpr):
    """Queries and keys over their mean square and by their weights; values as they are."""
    of_query = tl.load(query_norm + dims, mask=inside, other=0.0)[None, :]
    of_key = tl.load(key_norm + dims, mask=inside, other=0.0)[None, :]
    weights = tl.where((rows < GROUP)[:, None], of_query, of_key)
    return tl.where((rows <= GROUP)[:, None], x * scale[:, None] * weights, x)


@triton.jit
def larger_of(largest, x, SCALED: tl.constexpr):
    """Each row's largest magnitude so far, as bits (int8.py)."""
    if SCALED:
        largest = tl.maximum(largest, tl.max(magnitude_bits(x), 1))
    return largest


@triton.jit
def store_scales(
    largest,
    key_cache,
    value_cache,
    piece,
    slot,
    rows,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    SCALED: tl.constexpr,
):
    """The key's and the value's scale behind their piece's numbers; the bits of each row's, or None without scales."""
    if SCALED:
        bits = scale_bits(largest)
        places = (piece + BLOCK_SIZE * HEAD_DIM) // 2 + slot % BLOCK_SIZE + rows * 0
        if slot >= 0:
            scales = bits.to(tl.uint16)
            tl.store(key_cache.to(tl.pointer_type(tl.uint16), bitcast=True) + places, scales, mask=rows == GROUP)
            tl.store(value_cache.to(tl.pointer_type(tl.uint16), bitcast=True) + places, scales, mask=rows == GROUP + 1)
        return bits
    else:  # noqa: RET505  Triton compiles only the branch that is taken
        return None


@triton.jit
def store_rows(
    x,
    bits,  # of the rows' scales, or None
    out,
    key_row,
    value_row,
    slot,
    rows,
    dims,
    inside,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    LARGEST: tl.constexpr,
):
    """Queries to `out`; the key and the value into their slot, which a token of padding does not have."""
    own, shared = rows[:, None] * HEAD_DIM + dims[None, :], rows[:, None] * 0 + dims[None, :]
    tl.store(out + own, x.to(out.dtype.element_ty), mask=(rows < GROUP)[:, None] & inside[None, :])
    if slot >= 0:
        kept = as_stored(x, key_row.dtype.element_ty, LARGEST) if bits is None else as_int8(x, bits[:, None])
        tl.store(key_row + shared, kept, mask=(rows == GROUP)[:, None] & inside[None, :])
        tl.store(value_row + shared, kept, mask=(rows == GROUP + 1)[:, None] & inside[None, :])

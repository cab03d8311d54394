"""A tile of a sequence's context out of its blocks, whatever the cache is made of and however it is read."""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl

from octavo_kernels.triton.e4m3 import as_read


@triton.jit
def load_pages(table, tile, num_pages, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr, BOXES: tl.constexpr):
    """Block numbers of a tile of positions; 0 past the sequence's end, where the table may hold anything."""
    PAGES: tl.constexpr = max(1, BLOCK_N // BLOCK_SIZE)
    index = tile * BLOCK_N // BLOCK_SIZE
    if not BOXES:  # a box lies in one block, whose number is a scalar
        index += tl.arange(0, PAGES)
    return tl.load(table + index, mask=index < num_pages, other=0)


@triton.jit
def pieces_of(pages, kv_head, NUM_KV_HEADS: tl.constexpr):
    """Which head of which block, counted through the cache; int64, as a pool passes 2^31 numbers."""
    return pages.to(tl.int64) * NUM_KV_HEADS + kv_head


@triton.jit
def rows_of(
    pages,
    tile,
    kv_head,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BOXES: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Where each position's row begins, in numbers from the cache's first; SCALED pieces are longer by their scales.

    Of a box its first row alone, counted in rows, which hardware takes as int32.
    """
    pieces = pieces_of(pages, kv_head, NUM_KV_HEADS)
    if BOXES:
        return (pieces * BLOCK_SIZE + tile * BLOCK_N % BLOCK_SIZE).to(tl.int32)
    else:  # noqa: RET505  Triton compiles only the branch that is taken
        first = pieces * (BLOCK_SIZE * (HEAD_DIM + 2 * SCALED)) + tile * BLOCK_N % BLOCK_SIZE * HEAD_DIM
        within = tl.arange(0, min(BLOCK_SIZE, BLOCK_N)) * HEAD_DIM
        return tl.reshape(first[:, None] + within[None, :], [BLOCK_N])


@triton.jit
def load_context(
    key_cache,
    value_cache,
    pages,
    tile,
    kv_head,
    seq_len,
    dims,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    DTYPE: tl.constexpr,
    MASKED: tl.constexpr,
    BOXES: tl.constexpr,
    SCALED: tl.constexpr,
):
    """Keys [PADDED_DIM, BLOCK_N] and values [BLOCK_N, PADDED_DIM] of a tile of positions, which MASKED may not all be
    written; SCALED without their scales.
    """
    rows = rows_of(pages, tile, kv_head, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE, BLOCK_N, BOXES, SCALED)
    if MASKED:
        written = tile * BLOCK_N + tl.arange(0, BLOCK_N) < seq_len
        return load_tile_masked(key_cache, value_cache, rows, written, dims, HEAD_DIM, DTYPE, BOXES)
    else:  # noqa: RET505  Triton compiles only the branch that is taken
        return load_tile(key_cache, value_cache, rows, dims, HEAD_DIM, PADDED_DIM, DTYPE, BOXES)


@triton.jit
def load_tile(
    key_cache,
    value_cache,
    rows,
    dims,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    DTYPE: tl.constexpr,
    BOXES: tl.constexpr,
):
    """Keys [PADDED_DIM, BLOCK_N] and values [BLOCK_N, PADDED_DIM] of whole blocks."""
    if BOXES:
        k = key_cache.load([rows, 0]).T
        v = value_cache.load([rows, 0])
    else:
        keys = key_cache + rows[None, :] + dims[:, None]
        values = value_cache + rows[:, None] + dims[None, :]
        if HEAD_DIM == PADDED_DIM:
            k = tl.load(keys)
            v = tl.load(values)
        else:
            k = tl.load(keys, mask=(dims < HEAD_DIM)[:, None], other=0.0)
            v = tl.load(values, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    return as_read(k, DTYPE), as_read(v, DTYPE)


@triton.jit
def load_tile_masked(
    key_cache,
    value_cache,
    rows,
    written,
    dims,
    HEAD_DIM: tl.constexpr,
    DTYPE: tl.constexpr,
    BOXES: tl.constexpr,
):
    """The same, with zeros for positions that are not written: what lies there may be NaN, or another's.

    A box of keys stays as it is: their scores are masked, while values are summed, with weights of 0.
    """
    if BOXES:
        k = as_read(key_cache.load([rows, 0]).T, DTYPE)
        v = tl.where(written[:, None], as_read(value_cache.load([rows, 0]), DTYPE), 0.0)
        return k, v
    else:  # noqa: RET505  as above
        inside = dims < HEAD_DIM
        keys = key_cache + rows[None, :] + dims[:, None]
        values = value_cache + rows[:, None] + dims[None, :]
        k = tl.load(keys, mask=written[None, :] & inside[:, None], other=0.0)
        v = tl.load(values, mask=written[:, None] & inside[None, :], other=0.0)
        return as_read(k, DTYPE), as_read(v, DTYPE)

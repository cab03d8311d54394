"""Causal attention over paged keys and values, for decode, chunked prefill and any mix of them in one launch.

One program computes one tile of queries for one KV head. The query heads of a group share that head's keys and values,
so they are packed into the rows of one matrix product:

    rows of a tile     (query 0, head 0) (query 0, head 1) … (query 1, head 0) …        BLOCK_M rows
    columns            BLOCK_N positions at a time: several blocks, or a part of one

Tiles of positions that all rows may see need no mask; only the last few do, and they are a loop of their own. The
numbers of the next tile's blocks are loaded one tile ahead: a load whose address depends on another load is what
Triton's pipeliner handles worst (DESIGN.md). The softmax is FlashAttention's online one, in base 2.
"""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def paged_attention_kernel(
    query,
    key_cache,
    value_cache,
    out,
    tile_sequence,
    tile_first_query,
    query_start_loc,
    seq_lens,
    block_table,
    scale_log2e,
    query_stride,  # elements from one token to the next
    out_stride,
    table_stride,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,  # query heads per KV head
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,  # HEAD_DIM rounded up to a power of two
    BLOCK_SIZE: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    INTERP: tl.constexpr,
):
    sequence = tl.load(tile_sequence + tl.program_id(0))
    if sequence >= 0:
        kv_head = tl.program_id(1)
        first_query = tl.load(tile_first_query + tl.program_id(0))
        first_token = tl.load(query_start_loc + sequence)
        num_queries = tl.load(query_start_loc + sequence + 1) - first_token
        seq_len = tl.load(seq_lens + sequence)
        num_pages = tl.cdiv(seq_len, BLOCK_SIZE)
        table = block_table + sequence.to(tl.int64) * table_stride

        rows = tl.arange(0, BLOCK_M)
        queries = first_query + rows // GROUP
        heads = kv_head * GROUP + rows % GROUP
        dims = tl.arange(0, PADDED_DIM)
        row_valid = (rows < BLOCK_Q * GROUP) & (queries < num_queries)
        valid = row_valid[:, None] & (dims < HEAD_DIM)[None, :]
        tokens = (first_token + queries).to(tl.int64)
        q = tl.load(query + (tokens * query_stride + heads * HEAD_DIM)[:, None] + dims[None, :], mask=valid, other=0.0)
        if INTERP:
            q = q.to(tl.float32)

        first_position = seq_len - num_queries + first_query
        positions = first_position + rows // GROUP  # of each row's query; it sees positions up to its own
        end = seq_len - num_queries + tl.minimum(first_query + BLOCK_Q, num_queries)
        num_full = (first_position + 1) // BLOCK_N  # tiles that even the first row sees whole
        num_tiles = tl.cdiv(end, BLOCK_N)

        largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, PADDED_DIM], tl.float32)
        pages = load_pages(table, 0, num_pages, BLOCK_SIZE, BLOCK_N)
        for tile in range(num_full):
            next_pages = load_pages(table, tile + 1, num_pages, BLOCK_SIZE, BLOCK_N)
            slots = slots_of(pages, tile, kv_head, NUM_KV_HEADS, BLOCK_SIZE, BLOCK_N)
            k, v = load_tile(key_cache, value_cache, slots, dims, HEAD_DIM, PADDED_DIM, INTERP)
            scores = tl.dot(q, k, input_precision="ieee") * scale_log2e
            largest, total, acc = accumulate(scores, v, largest, total, acc)
            pages = next_pages
        for tile in range(num_full, num_tiles):
            next_pages = load_pages(table, tile + 1, num_pages, BLOCK_SIZE, BLOCK_N)
            slots = slots_of(pages, tile, kv_head, NUM_KV_HEADS, BLOCK_SIZE, BLOCK_N)
            columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
            k, v = load_tile_masked(key_cache, value_cache, slots, columns < seq_len, dims, HEAD_DIM, INTERP)
            scores = tl.dot(q, k, input_precision="ieee") * scale_log2e
            scores = tl.where(columns[None, :] <= positions[:, None], scores, float("-inf"))
            largest, total, acc = accumulate(scores, v, largest, total, acc)
            pages = next_pages

        result = (acc / total[:, None]).to(out.dtype.element_ty)
        tl.store(out + (tokens * out_stride + heads * HEAD_DIM)[:, None] + dims[None, :], result, mask=valid)


@triton.jit
def load_pages(table, tile, num_pages, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Block numbers of a tile of positions; 0 past the sequence's end, where the table may hold anything."""
    PAGES: tl.constexpr = max(1, BLOCK_N // BLOCK_SIZE)
    index = tile * BLOCK_N // BLOCK_SIZE + tl.arange(0, PAGES)
    return tl.load(table + index, mask=index < num_pages, other=0)


@triton.jit
def slots_of(pages, tile, kv_head, NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, BLOCK_N: tl.constexpr):
    """Rows of the cache, seen as [num_blocks * num_kv_heads * block_size, head_dim]; int64, as a pool passes 2^31."""
    first = (pages.to(tl.int64) * NUM_KV_HEADS + kv_head) * BLOCK_SIZE + tile * BLOCK_N % BLOCK_SIZE
    return tl.reshape(first[:, None] + tl.arange(0, min(BLOCK_SIZE, BLOCK_N))[None, :], [BLOCK_N])


@triton.jit
def load_tile(
    key_cache, value_cache, slots, dims, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, INTERP: tl.constexpr
):
    """Keys [PADDED_DIM, BLOCK_N] and values [BLOCK_N, PADDED_DIM] of whole blocks."""
    keys = key_cache + slots[None, :] * HEAD_DIM + dims[:, None]
    values = value_cache + slots[:, None] * HEAD_DIM + dims[None, :]
    if HEAD_DIM == PADDED_DIM:
        k = tl.load(keys)
        v = tl.load(values)
    else:
        k = tl.load(keys, mask=(dims < HEAD_DIM)[:, None], other=0.0)
        v = tl.load(values, mask=(dims < HEAD_DIM)[None, :], other=0.0)
    if INTERP:
        k = k.to(tl.float32)
        v = v.to(tl.float32)
    return k, v


@triton.jit
def load_tile_masked(key_cache, value_cache, slots, written, dims, HEAD_DIM: tl.constexpr, INTERP: tl.constexpr):
    """The same, with zeros for positions that are not written: what lies there may be NaN, or another's."""
    inside = dims < HEAD_DIM
    keys = key_cache + slots[None, :] * HEAD_DIM + dims[:, None]
    values = value_cache + slots[:, None] * HEAD_DIM + dims[None, :]
    k = tl.load(keys, mask=written[None, :] & inside[:, None], other=0.0)
    v = tl.load(values, mask=written[:, None] & inside[None, :], other=0.0)
    if INTERP:
        k = k.to(tl.float32)
        v = v.to(tl.float32)
    return k, v


@triton.jit
def accumulate(scores, v, largest, total, acc):
    """One step of the online softmax (Milakov and Gimelshein, 2018; FlashAttention, 2022), scores in base 2."""
    new_largest = tl.maximum(largest, tl.max(scores, 1))
    weights = tl.exp2(scores - new_largest[:, None])
    correction = tl.exp2(largest - new_largest)
    total = total * correction + tl.sum(weights, 1)
    acc = acc * correction[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return new_largest, total, acc

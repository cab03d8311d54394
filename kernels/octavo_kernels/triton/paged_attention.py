"""Causal attention over paged keys and values, for decode, chunked prefill and any mix of them in one launch.

A program works through its part of the work list (work.py): one tile of queries for one KV head after the other. The
query heads of a group share that head's keys and values, so they are packed into the rows of one matrix product:

    rows of a tile     (query 0, head 0) (query 0, head 1) … (query 1, head 0) …        BLOCK_M rows
    columns            BLOCK_N positions at a time: several blocks, or a part of one

Tiles of positions that all rows may see need no mask; only the last few do, and they are a loop of their own. With a
sliding window that loop does all of the work, from the first tile that any row sees. The numbers of the next tile's
blocks are loaded one tile ahead: a load whose address depends on another load is what Triton's pipeliner handles
worst (DESIGN.md). The softmax is FlashAttention's online one, in base 2.
Both come through pointers, or as boxes where the table of launches has it so (boxes.py); the loops are the same.
Keys and values of a cache in e4m3 are loaded as such and become fp16 in registers (e4m3.py); those of one in int8
become the queries' dtype, and their scales multiply what stands on the other side of the products (int8.py).
"""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl

from octavo_kernels.triton.context import load_context, load_pages
from octavo_kernels.triton.e4m3 import as_halves
from octavo_kernels.triton.int8 import load_scales


@triton.jit
def paged_attention_kernel(
    query,
    key_cache,
    value_cache,
    out,
    partial,
    partial_largest,
    partial_total,
    units,
    program_unit,
    program_tile,
    query_start_loc,
    seq_lens,
    block_table,
    sinks,  # [num_heads], or None
    slopes,  # [num_heads], or None
    num_splits,  # of the longest context, or None (SPLIT)
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
    WINDOW: tl.constexpr = 0,  # positions that a row sees up to its own; 0: all
    SOFT_CAP: tl.constexpr = 0.0,  # scaled scores s become SOFT_CAP tanh(s / SOFT_CAP); 0: as they are
    SPLIT: tl.constexpr = 0,  # tiles of positions, where contexts are cut at multiples of so many (splits.py)
    BOXES: tl.constexpr = False,  # the caches come as tensor descriptors, whose boxes are tiles (boxes.py)
    SCALED: tl.constexpr = False,  # caches in int8 with scales
    HALVES: tl.constexpr = False,  # products of fp16 where queries are bf16 (e4m3.py)
):
    program = tl.program_id(0)
    first_unit = tl.load(program_unit + program)
    last_unit = tl.load(program_unit + program + 1)
    first_skipped = tl.load(program_tile + program)
    last_stop = tl.load(program_tile + program + 1)
    # What is the same for all units is made anew for each: moved out of this loop, it keeps some seventy registers. Not
    # in a decode, which has them and short units, nor for exact products or with scales, which spill without.
    anew: tl.constexpr = BLOCK_M > 16 and query.dtype.element_ty != tl.float32 and not SCALED
    for unit in tl.range(first_unit, last_unit + tl.where(last_stop > 0, 1, 0), disable_licm=anew):
        kv_head, sequence, first_query, first_tile, count = load_unit(units, unit)
        begin = first_tile + tl.where(unit == first_unit, first_skipped, 0)
        stop = first_tile + tl.where(unit == last_unit, last_stop, count)
        first_token = tl.load(query_start_loc + sequence)
        num_queries = tl.load(query_start_loc + sequence + 1) - first_token
        seq_len = tl.load(seq_lens + sequence)
        num_pages = tl.cdiv(seq_len, BLOCK_SIZE)
        table = block_table + sequence.to(tl.int64) * table_stride

        rows = tl.arange(0, BLOCK_M)
        dims = tl.arange(0, PADDED_DIM)
        row_valid = (rows < BLOCK_Q * GROUP) & (rows // GROUP < num_queries - first_query)
        inside = (dims < HEAD_DIM)[None, :]
        heads = kv_head * GROUP + rows % GROUP
        tokens = (first_token + first_query + rows // GROUP).to(tl.int64)
        row_query = tokens * query_stride + heads * HEAD_DIM
        q = tl.load(query + row_query[:, None] + dims[None, :], mask=row_valid[:, None] & inside, other=0.0)
        q, scale = as_multiplied(q, scale_log2e, INTERP, HALVES)

        first_position = seq_len - num_queries + first_query
        positions = first_position + rows // GROUP  # of each row's query; it sees positions up to its own
        if slopes is not None:
            slope = load_per_head(slopes, kv_head, rows, GROUP, BLOCK_Q)
        num_full = (first_position + 1) // BLOCK_N  # tiles that even the first row sees whole
        if WINDOW > 0:
            num_full = begin
        num_full = tl.minimum(tl.maximum(num_full, begin), stop)

        largest = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        acc = tl.zeros([BLOCK_M, PADDED_DIM], tl.float32)
        pages = load_pages(table, begin, num_pages, BLOCK_SIZE, BLOCK_N, BOXES)
        scales = load_scales(
            key_cache, value_cache, pages, begin, kv_head, seq_len, NUM_KV_HEADS, HEAD_DIM, BLOCK_SIZE, BLOCK_N, SCALED
        )
        for tile in range(begin, num_full):
            next_pages = load_pages(table, tile + 1, num_pages, BLOCK_SIZE, BLOCK_N, BOXES)
            k, v = load_context(
                key_cache, value_cache, pages, tile, kv_head, seq_len, dims, NUM_KV_HEADS, HEAD_DIM, PADDED_DIM,
                BLOCK_SIZE, BLOCK_N, q.dtype, False, BOXES, SCALED,
            )  # fmt: skip
            scores = score(q, k, scale, scales[0], SOFT_CAP)
            if slopes is not None:
                scores += biases(slope, tile * BLOCK_N + tl.arange(0, BLOCK_N), positions)
            largest, total, acc = accumulate(scores, v, scales[1], largest, total, acc, False, HALVES)
            pages = next_pages
            scales = load_scales(
                key_cache,
                value_cache,
                pages,
                tile + 1,
                kv_head,
                seq_len,
                NUM_KV_HEADS,
                HEAD_DIM,
                BLOCK_SIZE,
                BLOCK_N,
                SCALED,
            )
        for tile in range(num_full, stop):
            next_pages = load_pages(table, tile + 1, num_pages, BLOCK_SIZE, BLOCK_N, BOXES)
            k, v = load_context(
                key_cache, value_cache, pages, tile, kv_head, seq_len, dims, NUM_KV_HEADS, HEAD_DIM, PADDED_DIM,
                BLOCK_SIZE, BLOCK_N, q.dtype, True, BOXES, SCALED,
            )  # fmt: skip
            scores = score(q, k, scale, scales[0], SOFT_CAP)
            columns = tile * BLOCK_N + tl.arange(0, BLOCK_N)
            if slopes is not None:
                scores += biases(slope, columns, positions)
            scores = tl.where(visible(columns, positions, WINDOW), scores, float("-inf"))
            largest, total, acc = accumulate(scores, v, scales[1], largest, total, acc, True, HALVES)
            pages = next_pages
            scales = load_scales(
                key_cache,
                value_cache,
                pages,
                tile + 1,
                kv_head,
                seq_len,
                NUM_KV_HEADS,
                HEAD_DIM,
                BLOCK_SIZE,
                BLOCK_N,
                SCALED,
            )

        # Masks, not a branch: with both ways of storing behind one, registers spilled. (Comparisons of rows, because
        # the interpreter makes numbers of a boolean that is spread over them.)
        whole = stop - begin == count
        at = (2 * program + tl.where(begin == first_tile, 1, 0)) * BLOCK_M + rows
        if SPLIT > 0:
            first_split, last_split = splits_of(first_position, seq_len, BLOCK_Q, BLOCK_N, SPLIT, WINDOW)
            whole = first_split == last_split
            at = (tokens * (NUM_KV_HEADS * GROUP) + heads) * num_splits + begin // SPLIT
        kept = row_valid & (rows < tl.where(whole, BLOCK_M, 0))
        left = row_valid & (rows < tl.where(whole, 0, BLOCK_M))
        # A program leaves at most two parts: one of a unit that another began, one of a unit that another ends.
        sink = load_sinks(sinks, kv_head, rows, GROUP, BLOCK_Q)
        acc = acc / tl.where(whole, divisor(largest, total, sink, sinks is not None), 1.0)[:, None]
        tl.store(partial_largest + at, largest, mask=left)
        tl.store(partial_total + at, total, mask=left)
        tl.store(partial + (at * HEAD_DIM)[:, None] + dims[None, :], acc, mask=left[:, None] & inside)
        result = acc.to(out.dtype.element_ty)
        row_out = tokens * out_stride + heads * HEAD_DIM
        tl.store(out + row_out[:, None] + dims[None, :], result, mask=kept[:, None] & inside)


@triton.jit
def as_multiplied(q, scale_log2e, INTERP: tl.constexpr, HALVES: tl.constexpr):
    """Queries as products take them, and what their scores are multiplied by: one number, or one for each row."""
    if INTERP:
        q = q.to(tl.float32)
    if HALVES:
        q, undo = as_halves(q, INTERP)
        return q, (scale_log2e * undo)[:, None]
    else:  # noqa: RET505  Triton compiles only the branch that is taken
        return q, scale_log2e


@triton.jit
def load_unit(units, unit):
    """KV head, sequence, first query, first tile of positions and number of them (`WorkList.units`)."""
    row = units + unit * 5
    return tl.load(row), tl.load(row + 1), tl.load(row + 2), tl.load(row + 3), tl.load(row + 4)


@triton.jit
def splits_of(
    first_position,
    seq_len,
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
):
    """The first and the last split of the context that any row of a tile of queries sees."""
    first = 0
    if WINDOW > 0:
        first = tl.maximum(first_position - WINDOW + 1, 0) // (BLOCK_N * SPLIT)
    return first, (tl.minimum(first_position + BLOCK_Q, seq_len) - 1) // (BLOCK_N * SPLIT)


@triton.jit
def load_per_head(numbers, kv_head, rows, GROUP: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Each row's head's number, in base 2."""
    LOG2E: tl.constexpr = 1.4426950408889634
    found = tl.load(numbers + kv_head * GROUP + rows % GROUP, mask=rows < BLOCK_Q * GROUP, other=0.0)
    return found.to(tl.float32) * LOG2E


@triton.jit
def load_sinks(sinks, kv_head, rows, GROUP: tl.constexpr, BLOCK_Q: tl.constexpr):
    """Each row's head's sink, in base 2; minus infinity where there are none."""
    found = tl.full(rows.shape, float("-inf"), tl.float32)
    if sinks is not None:
        found = load_per_head(sinks, kv_head, rows, GROUP, BLOCK_Q)
    return found


@triton.jit
def biases(slope, columns, positions):
    """ALiBi (Press et al., 2022): how far back a position lies, times its head's slope."""
    return slope[:, None] * (columns[None, :] - positions[:, None]).to(tl.float32)


@triton.jit
def divisor(largest, total, sink, HAS_SINKS: tl.constexpr):
    """What weighted sums are divided by: the sum of weights, the sink's among them; 1 for rows that saw nothing."""
    if HAS_SINKS:
        most = tl.maximum(largest, sink)
        base = tl.where(most == float("-inf"), 0.0, most)
        # Both relative to the larger. What is divided is relative to the largest score, hence the quotient; where the
        # sink takes all but 1e-30, zeros come out either way.
        share = tl.maximum(tl.exp2(largest - base), 1e-30)
        total = (total * share + tl.exp2(sink - base)) / share
    return tl.where(total > 0.0, total, 1.0)


@triton.jit
def score(q, k, scale, key_scales, SOFT_CAP: tl.constexpr):
    """Scores in base 2: log2(e) times what they are in base e, and a soft cap that is applied in base e.

    `scale` is one number, or one for each row; `key_scales` are of the tile's positions, or None.
    """
    if key_scales is not None:
        scale *= key_scales.to(tl.float32)[None, :]
    scores = tl.dot(q, k, input_precision="ieee") * scale
    if SOFT_CAP > 0:
        LOG2E: tl.constexpr = 1.4426950408889634
        x = scores / (LOG2E * SOFT_CAP)
        squared = x * x
        # Near 0 the quotient cancels; its series there is exact to fp32.
        series = x * (1 + squared * (-1 / 3 + squared * (2 / 15 - squared * (17 / 315))))
        quotient = 1 - 2 / (tl.exp2(2 * LOG2E * x) + 1)
        scores = LOG2E * SOFT_CAP * tl.where(squared < 0.0625, series, quotient)
    return scores


@triton.jit
def visible(columns, positions, WINDOW: tl.constexpr):
    """Which positions each row sees."""
    seen = columns[None, :] <= positions[:, None]
    if WINDOW > 0:
        seen = seen & (columns[None, :] > positions[:, None] - WINDOW)
    return seen


@triton.jit
def accumulate(scores, v, value_scales, largest, total, acc, MAY_BE_EMPTY: tl.constexpr, HALVES: tl.constexpr):
    """One step of the online softmax (Milakov and Gimelshein, 2018; FlashAttention, 2022), scores in base 2.

    `value_scales` are of the tile's positions, or None.
    MAY_BE_EMPTY: a row may have seen nothing so far, whose largest score is minus infinity, and that minus itself NaN.
    HALVES: fp16 has no numbers below 2^-24, so weights go up to 2^14. What they are relative to is 14 less than the
    largest score then, which nobody else need know: parts and sinks are brought to a common number wherever they meet.
    """
    most = tl.max(scores, 1)
    if HALVES:
        most -= 14.0
    new_largest = tl.maximum(largest, most)
    base = new_largest
    if MAY_BE_EMPTY:
        base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    weights = tl.exp2(scores - base[:, None])
    correction = tl.exp2(largest - base)
    total = total * correction + tl.sum(weights, 1)
    if value_scales is not None:
        weights *= value_scales.to(tl.float32)[None, :]
    acc = acc * correction[:, None] + tl.dot(weights.to(v.dtype), v, input_precision="ieee")
    return new_largest, total, acc

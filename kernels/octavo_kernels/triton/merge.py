"""Merge what several programs found for parts of one unit of work (work.py).

Each part is a softmax over some of the positions, not yet divided: its largest score, the sum of its weights and the
weighted sum of its values, in fp32. Brought to a common largest score, sums are added (Flash-Decoding, 2023).

    boundaries between programs     0 | 1 | 2 | 3 | 4
    units                           aaaaaaaa|b|ccc|dd             a: merged by the boundary 0|1, its first; c: by 2|3

One launch of so many programs as there are boundaries serves every batch; a boundary at which nothing was cut, or which
is not the first in its unit, has nothing to do.
"""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl

from octavo_kernels.triton.paged_attention import divisor, load_sinks, load_unit


@triton.jit
def merge_kernel(
    out,
    partial,
    partial_largest,
    partial_total,
    units,
    program_unit,
    program_tile,
    program_end,
    query_start_loc,
    sinks,  # [num_heads], or None
    out_stride,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_M: tl.constexpr,
    ROWS: tl.constexpr,  # of BLOCK_M, by one program
):
    last = tl.program_id(0)  # the program before the boundary
    unit = tl.load(program_unit + last + 1)
    cut = tl.load(program_tile + last + 1) > 0
    began_here = (tl.load(program_unit + last) < unit) | (tl.load(program_tile + last) == 0)
    if cut & began_here:
        kv_head, sequence, first_query, _, _ = load_unit(units, unit)
        first_token = tl.load(query_start_loc + sequence)
        num_queries = tl.load(query_start_loc + sequence + 1) - first_token
        rows = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
        queries = first_query + rows // GROUP
        heads = kv_head * GROUP + rows % GROUP
        dims = tl.arange(0, PADDED_DIM)
        row_valid = (rows < BLOCK_Q * GROUP) & (queries < num_queries)
        valid = row_valid[:, None] & (dims < HEAD_DIM)[None, :]

        largest = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, PADDED_DIM], tl.float32)
        for program in range(last, tl.load(program_end + last + 1)):
            slot = 2 * program + tl.where(program == last, 1, 0)
            at = slot * BLOCK_M + rows
            part = load_part(partial, partial_largest, partial_total, at, dims, row_valid, HEAD_DIM)
            largest, total, acc = merge(largest, total, acc, *part)
        sink = load_sinks(sinks, kv_head, rows, GROUP, BLOCK_Q)
        result = (acc / divisor(largest, total, sink, sinks is not None)[:, None]).to(out.dtype.element_ty)
        tokens = (first_token + queries).to(tl.int64)
        tl.store(out + (tokens * out_stride + heads * HEAD_DIM)[:, None] + dims[None, :], result, mask=valid)


@triton.jit
def load_part(partial, partial_largest, partial_total, at, dims, row_valid, HEAD_DIM: tl.constexpr):
    """A part's largest scores, sums of weights and weighted sums; as if it had seen nothing where a row is not valid.

    `at`: where each row's lies, in rows of `partial`.
    """
    valid = row_valid[:, None] & (dims < HEAD_DIM)[None, :]
    largest = tl.load(partial_largest + at, mask=row_valid, other=float("-inf"))
    total = tl.load(partial_total + at, mask=row_valid, other=0.0)
    acc = tl.load(partial + (at * HEAD_DIM)[:, None] + dims[None, :], mask=valid, other=0.0)
    return largest, total, acc


@triton.jit
def merge(largest, total, acc, part_largest, part_total, part):
    """Two parts of a softmax as one. A row that saw nothing in either has minus infinity there, and sums of 0."""
    new_largest = tl.maximum(largest, part_largest)
    base = tl.where(new_largest == float("-inf"), 0.0, new_largest)
    old_weight = tl.exp2(largest - base)
    part_weight = tl.exp2(part_largest - base)
    total = total * old_weight + part_total * part_weight
    acc = acc * old_weight[:, None] + part * part_weight[:, None]
    return new_largest, total, acc

"""The work list of the batch-invariant mode: contexts are cut at fixed positions, whoever else is in the step.

    positions         0        2048      4096      6144
    a decode at 5000  [   0    |    1    |  2 ]               three pieces of work, of which programs take whole ones
    a chunk of it     [   0    |    1    |  2 ]               the same cuts, whatever the chunk

What a row finds in each split is kept apart and merged in the order of positions (`merge_splits_kernel`), and tiles are
of one shape for all steps. So a row's sum has the same terms in the same order alone, in any batch and in any chunk;
splits and tiles of which it sees nothing multiply its sums by 1 and add 0. The work list of work.py, which cuts where
programs end, needs less memory and has equal parts.
"""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
import triton.language as tl

from octavo_kernels.triton.merge import load_part, merge
from octavo_kernels.triton.paged_attention import divisor, load_sinks, splits_of
from octavo_kernels.triton.work import WorkList, cut, positions_of

if TYPE_CHECKING:
    from octavo_kernels.interface import PagedBatch
    from octavo_kernels.triton.tiles import QueryTiles


def split_work(
    batch: PagedBatch,
    tiles: QueryTiles,
    *,
    num_kv_heads: int,
    columns: int,
    split: int,
    num_splits: int,
    num_programs: int,
    window: int = 0,
) -> WorkList:
    """Every program takes whole pieces, about as many tiles of `columns` positions as any other. `split` is in tiles;
    `num_splits` is enough for every context.
    """
    first, count = positions_of(batch, tiles, columns, window)
    last = first + count - 1
    piece = torch.arange(num_splits, device=first.device)
    begins = torch.maximum(first[:, None], piece * split)
    counts = (torch.minimum(last[:, None] + 1, (piece + 1) * split) - begins).clamp(min=0)  # [tiles, splits]
    counts = counts.masked_fill((count == 0)[:, None], 0).expand(num_kv_heads, -1, -1).reshape(-1)
    order = (counts == 0).int().argsort(stable=True)  # units without work are the last ones
    head, piece = order // begins.numel(), order % begins.numel()
    tile = piece // num_splits
    counts = counts[order]
    unit, offset = cut(counts, num_programs)
    unit += offset > 0
    columns_of_units = (head, tiles.sequence[tile], tiles.first_query[tile], begins.view(-1)[piece], counts)
    return WorkList(
        units=torch.stack([column.int() for column in columns_of_units], dim=1),
        program_unit=unit.int(),
        program_tile=torch.zeros_like(unit, dtype=torch.int32),
        program_end=unit.int(),
    )


@triton.jit
def merge_splits_kernel(
    out,
    partial,
    partial_largest,
    partial_total,
    tile_sequence,
    tile_first_query,
    query_start_loc,
    seq_lens,
    sinks,  # [num_heads], or None
    out_stride,
    num_splits,
    NUM_KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PADDED_DIM: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,  # of a tile, by one program
):
    """One program per (tile of queries, KV head, some of its rows). What lies in one split is stored already."""
    sequence = tl.load(tile_sequence + tl.program_id(0))
    if sequence >= 0:
        kv_head = tl.program_id(1)
        first_query = tl.load(tile_first_query + tl.program_id(0))
        first_token = tl.load(query_start_loc + sequence)
        num_queries = tl.load(query_start_loc + sequence + 1) - first_token
        seq_len = tl.load(seq_lens + sequence)
        first_position = seq_len - num_queries + first_query
        first_split, last_split = splits_of(first_position, seq_len, BLOCK_Q, BLOCK_N, SPLIT, WINDOW)
        rows = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
        queries = first_query + rows // GROUP
        heads = kv_head * GROUP + rows % GROUP
        dims = tl.arange(0, PADDED_DIM)
        row_valid = (rows < BLOCK_Q * GROUP) & (queries < num_queries)
        row_valid = row_valid & (rows < tl.where(first_split < last_split, BLOCK_Q * GROUP, 0))
        valid = row_valid[:, None] & (dims < HEAD_DIM)[None, :]
        tokens = (first_token + queries).to(tl.int64)

        largest = tl.full([ROWS], float("-inf"), tl.float32)
        total = tl.zeros([ROWS], tl.float32)
        acc = tl.zeros([ROWS, PADDED_DIM], tl.float32)
        for split in range(first_split, last_split + 1):
            at = (tokens * (NUM_KV_HEADS * GROUP) + heads) * num_splits + split
            part = load_part(partial, partial_largest, partial_total, at, dims, row_valid, HEAD_DIM)
            largest, total, acc = merge(largest, total, acc, *part)
        sink = load_sinks(sinks, kv_head, rows, GROUP, BLOCK_Q)
        result = (acc / divisor(largest, total, sink, sinks is not None)[:, None]).to(out.dtype.element_ty)
        tl.store(out + (tokens * out_stride + heads * HEAD_DIM)[:, None] + dims[None, :], result, mask=valid)

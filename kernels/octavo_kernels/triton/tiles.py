"""The list of query tiles: which sequence, and which of its queries, each program of the attention kernel works on.

    queries per sequence      1     5          0    3            block_q = 4
    tiles                     [a]   [b b b b]  [c]  [d d d]
    sequence                  0     1 1             3    -1 -1   as many entries as the worst case needs, the rest -1
    first query               0     0 4             0

It is built on the device from shapes alone, with no length read by the host, so that the launch can be part of a CUDA
graph that is replayed for other lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import PagedBatch


@dataclass(frozen=True, slots=True)
class QueryTiles:
    sequence: Tensor  # [num_tiles] int32, -1: nothing to do
    first_query: Tensor  # [num_tiles] int32, counted within the sequence
    block_q: int  # queries in a full tile


def make_tiles(batch: PagedBatch, block_q: int) -> QueryTiles:
    """Cut every sequence's queries into tiles of `block_q`."""
    starts = batch.query_start_loc.long()
    num_sequences, num_tokens = starts.shape[0] - 1, batch.slot_mapping.shape[0]
    ends = ((starts.diff() + block_q - 1) // block_q).cumsum(0)  # tiles up to and with each sequence
    tiles = torch.arange(num_tokens // block_q + num_sequences, device=starts.device)
    sequence = torch.searchsorted(ends, tiles, right=True)
    used = sequence < num_sequences
    sequence = sequence.clamp(max=num_sequences - 1)
    before = ends[sequence - 1].masked_fill(sequence == 0, 0)
    return QueryTiles(
        sequence=sequence.masked_fill(~used, -1).int(),
        first_query=((tiles - before) * block_q).int(),
        block_q=block_q,
    )

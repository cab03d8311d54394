"""The work list: which tiles of positions each program of the attention kernel works on.

A unit of work is one KV head of one tile of queries, over the tiles of positions that those queries see. All units laid
end to end are one line of tiles, and every program takes an equal part of that line, wherever it begins and ends:

    units          |a a a a a a a a a a a a|b|c c|d d d|e|          a: a long context; b … e: short ones
    programs       |0 0 0 0|1 1 1 1|2 2 2 2|3 3 3 3|4 4 4|
                    a is cut in three, d in two; b, c and e are whole

So one long sequence fills the GPU as well as many short ones do, and there is no batch size at which anything changes.
What a program finds for a whole unit is the result; what it finds for a part is merged with the other parts by a second
kernel (merge.py). The number of programs is fixed by the device. The list is built on the device, with no length read
by the host, so that the launches can be part of a CUDA graph that is replayed for other lengths.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import PagedBatch
    from octavo_kernels.triton.tiles import QueryTiles


@dataclass(frozen=True, slots=True)
class WorkList:
    """P programs. The last entry of the two that have P + 1 is where the line ends."""

    units: Tensor  # [U, 5] int32: KV head, sequence, first query, first tile of positions, number of them
    program_unit: Tensor  # [P + 1] int32, where each program begins
    program_tile: Tensor  # [P + 1] int32, counted within that unit
    program_end: Tensor  # [P + 1] int32, one past the last program that works on the unit it begins in


def make_work(
    batch: PagedBatch,
    tiles: QueryTiles,
    *,
    num_kv_heads: int,
    columns: int,
    num_programs: int,
    window: int = 0,
    side_by_side: bool = False,
) -> WorkList:
    """Cut the line of all units into `num_programs` parts that differ by at most one tile of `columns` positions.

    `side_by_side` lays out the units so that programs work on neighbours at the same time, as far as they keep step:
    neighbours in a prefill read the same keys and values, which then come from the L2 cache. `window` 0: none.
    """
    first, count = positions_of(batch, tiles, columns, window)
    used = (count > 0).sum()
    line = torch.arange(tiles.sequence.shape[0] * num_kv_heads, device=count.device)
    order = _beside_each_other(line, used * num_kv_heads, num_programs) if side_by_side else line
    head, tile = order // used.clamp(min=1), order % used.clamp(min=1)
    count = torch.where(line < used * num_kv_heads, count[tile], 0)
    unit, offset = cut(count, num_programs)
    ends = torch.searchsorted(unit[:-1].contiguous(), unit, right=True)
    columns_of_units = (head, tiles.sequence[tile], tiles.first_query[tile], first[tile], count)
    return WorkList(
        units=torch.stack([column.int() for column in columns_of_units], dim=1),
        program_unit=unit.int(),
        program_tile=offset.int(),
        program_end=ends.int(),
    )


def positions_of(batch: PagedBatch, tiles: QueryTiles, columns: int, window: int) -> tuple[Tensor, Tensor]:
    """The first tile of positions that any query of each query tile sees, and how many there are; 0 for unused tiles.

    A used one has at least one, so that its rows are written whatever they see.
    """
    sequence = tiles.sequence.clamp(min=0)
    num_queries = batch.query_start_loc.diff()[sequence]
    before = batch.seq_lens[sequence] - num_queries  # positions before the sequence's first query
    end = before + torch.minimum(tiles.first_query + tiles.block_q, num_queries)
    first = (before + tiles.first_query - window + 1).clamp(min=0) // columns if window else torch.zeros_like(end)
    count = ((end + columns - 1) // columns - first).clamp(min=1)
    return first, torch.where(tiles.sequence >= 0, count, 0)


def cut(count: Tensor, num_programs: int) -> tuple[Tensor, Tensor]:
    """Where each of `num_programs` equal parts of the line begins, and where the line ends: (unit, tile in it).

    Units without tiles are the last ones. With fewer tiles than programs, the last programs get none.
    """
    ends, used = count.long().cumsum(0), (count > 0).sum()
    total = ends[-1]
    busy = total.clamp(min=1, max=num_programs)
    begin = torch.minimum(torch.arange(num_programs + 1, device=count.device) * total // busy, total)
    unit = torch.minimum(torch.searchsorted(ends, begin, right=True), used)
    within = unit.clamp(max=count.shape[0] - 1)
    return unit, torch.where(unit < used, begin - ends[within] + count[within], 0)


def _beside_each_other(line: Tensor, used: Tensor, num_programs: int) -> Tensor:
    """The order in which program p's share of the units is p, p + P, p + 2 P … where all units are equally long."""
    rest, rounds = used % num_programs, used // num_programs  # so many programs get a unit more than the others
    tall = rest * (rounds + 1)
    beyond = line - tall
    short = rounds.clamp(min=1)
    program = torch.where(line < tall, line // (rounds + 1), rest + beyond // short)
    turn = torch.where(line < tall, line % (rounds + 1), beyond % short)
    return torch.where(line < used, turn * num_programs + program, line)

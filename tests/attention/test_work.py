"""The work list against a specification in plain Python: everything once, in equal parts, whatever the lengths."""

from __future__ import annotations

from collections import Counter
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from octavo_kernels.interface import PagedBatch
from octavo_kernels.triton.splits import split_work
from octavo_kernels.triton.tiles import make_tiles
from octavo_kernels.triton.work import make_work

COLUMNS = 8


def batch_of(sequences, num_tokens=None):
    """`sequences` as (query length, context length with it); the work list looks at nothing else of a batch."""
    starts = [0, *accumulate(queries for queries, _ in sequences)]
    return PagedBatch(
        query_start_loc=torch.tensor(starts, dtype=torch.int32),
        seq_lens=torch.tensor([length for _, length in sequences], dtype=torch.int32),
        block_table=torch.zeros(len(sequences), 1, dtype=torch.int32),
        slot_mapping=torch.zeros(starts[-1] if num_tokens is None else num_tokens, dtype=torch.int64),
        max_query_len=max(queries for queries, _ in sequences),
        max_seq_len=max(length for _, length in sequences),
    )


def work_of(sequences, *, heads=2, block_q=4, programs=5, window=0, side_by_side=False):
    batch = batch_of(sequences)
    return make_work(
        batch,
        make_tiles(batch, block_q),
        num_kv_heads=heads,
        columns=COLUMNS,
        num_programs=programs,
        window=window,
        side_by_side=side_by_side,
    )


def wanted(sequences, *, heads, block_q, window):
    """What has to be done: (head, sequence, first query of its tile, tile of positions) that some query sees."""
    return [
        (head, sequence, query - query % block_q, tile)
        for head in range(heads)
        for sequence, (queries, length) in enumerate(sequences)
        for query in range(queries)
        for tile in {
            position // COLUMNS
            for position in range(length)
            if position <= length - queries + query and (not window or position > length - queries + query - window)
        }
    ]


def walk(work):
    """Each program's segments as (unit, begin, stop), in tiles of positions, as the kernel walks them."""
    units, starts, skipped = work.units.tolist(), work.program_unit.tolist(), work.program_tile.tolist()
    for program in range(len(starts) - 1):
        segments = []
        for unit in range(starts[program], starts[program + 1] + (skipped[program + 1] > 0)):
            _, _, _, first, count = units[unit]
            begin = first + (skipped[program] if unit == starts[program] else 0)
            stop = first + (skipped[program + 1] if unit == starts[program + 1] else count)
            segments.append((unit, begin, stop))
        yield segments


def sequences(max_queries: int, max_context: int):
    contexts = st.sampled_from([1, 7, 8, 9, 63, 64, 65]) | st.integers(1, max_context)
    one = contexts.flatmap(lambda n: st.tuples(st.integers(0, min(n, max_queries)) | st.just(1), st.just(n)))
    return st.lists(one, min_size=1, max_size=9).filter(lambda batch: any(queries for queries, _ in batch))


@settings(max_examples=100, deadline=None)
@given(
    batch=sequences(40, 150),
    heads=st.sampled_from([1, 2, 5]),
    block_q=st.sampled_from([1, 4, 16]),
    programs=st.sampled_from([1, 2, 7, 40]),
    window=st.sampled_from([0, 1, 9, 30, 500]),
    side_by_side=st.booleans(),
)
def test_every_tile_is_worked_on_once_and_in_equal_parts(*, batch, heads, block_q, programs, window, side_by_side):
    """Any batch, any number of programs: no tile twice, none left out, and no program has two more than another."""
    work = work_of(batch, heads=heads, block_q=block_q, programs=programs, window=window, side_by_side=side_by_side)
    units = work.units.tolist()
    segments = list(walk(work))
    done = Counter(
        (*units[unit][:3], tile) for program in segments for unit, begin, stop in program for tile in range(begin, stop)
    )
    assert done == Counter(set(wanted(batch, heads=heads, block_q=block_q, window=window)))
    loads = [sum(stop - begin for _, begin, stop in program) for program in segments]
    assert len(loads) == programs
    assert max(loads) - min(loads) <= 1


@settings(max_examples=60, deadline=None)
@given(
    batch=sequences(40, 150),
    heads=st.sampled_from([1, 3]),
    block_q=st.sampled_from([1, 4, 16]),
    programs=st.sampled_from([1, 2, 7, 40]),
    window=st.sampled_from([0, 1, 30]),
    split=st.sampled_from([1, 3]),
)
def test_at_fixed_places_every_tile_is_worked_on_once_and_pieces_are_whole(
    *, batch, heads, block_q, programs, window, split
):
    """No share is larger than the mean by more than a piece, and no piece reaches over a multiple of `split`."""
    paged = batch_of(batch)
    longest = max(length for _, length in batch)
    work = split_work(
        paged,
        make_tiles(paged, block_q),
        num_kv_heads=heads,
        columns=COLUMNS,
        split=split,
        num_splits=-(-longest // (COLUMNS * split)),
        num_programs=programs,
        window=window,
    )
    units = work.units.tolist()
    segments = list(walk(work))
    done = Counter(
        (*units[unit][:3], tile) for program in segments for unit, begin, stop in program for tile in range(begin, stop)
    )
    assert done == Counter(set(wanted(batch, heads=heads, block_q=block_q, window=window)))
    pieces = [piece for program in segments for piece in program]
    assert len({unit for unit, _, _ in pieces}) == len(pieces)
    assert all(begin // split == (stop - 1) // split for _, begin, stop in pieces)
    loads = [sum(stop - begin for _, begin, stop in program) for program in segments]
    assert max(loads) <= sum(loads) / len(loads) + split + 1


@settings(max_examples=60, deadline=None)
@given(batch=sequences(20, 300), programs=st.sampled_from([2, 3, 11, 40]), side_by_side=st.booleans())
def test_parts_of_a_unit_are_found_again_by_the_merge(batch, programs, side_by_side):
    """A program leaves at most one part of a unit that it begins and one of a unit that it does not, each in its slot;
    the first boundary in a cut unit names all programs that worked on it.
    """
    work = work_of(batch, programs=programs, side_by_side=side_by_side)
    units = work.units.tolist()
    parts: dict[int, list[tuple[int, bool]]] = {}
    for program, segments in enumerate(walk(work)):
        cut = [(unit, begin == units[unit][3]) for unit, begin, stop in segments if stop - begin < units[unit][4]]
        assert len({first for _, first in cut}) == len(cut)
        for unit, first in cut:
            parts.setdefault(unit, []).append((program, first))
    starts, skipped, ends = (x.tolist() for x in (work.program_unit, work.program_tile, work.program_end))
    merged = {
        starts[last + 1]: [(program, program == last) for program in range(last, ends[last + 1])]
        for last in range(programs - 1)
        if skipped[last + 1] > 0 and (starts[last] < starts[last + 1] or skipped[last] == 0)
    }
    assert merged == parts


def test_one_long_context_among_short_ones_fills_all_programs():
    """131,072 positions beside seven sequences of one: nobody has more than a tile above the average."""
    work = work_of([(1, 1)] * 4 + [(1, 131_072)] + [(1, 1)] * 3, heads=8, programs=396)
    loads = [sum(stop - begin for _, begin, stop in segments) for segments in walk(work)]
    tiles = 8 * (131_072 // COLUMNS + 7)
    assert sum(loads) == tiles
    assert set(loads) == {tiles // 396, tiles // 396 + 1}


def test_neighbouring_units_are_worked_on_at_the_same_time():
    """Nine units of one tile, three programs: program p takes p, p + 3, p + 6."""
    work = work_of([(1, 8)] * 9, heads=1, programs=3, side_by_side=True)
    units = work.units.tolist()
    taken = [[units[unit][1] for unit, _, _ in segments] for segments in walk(work)]
    assert taken == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]


@pytest.mark.parametrize("window", [0, 100])
def test_lists_have_the_same_shapes_at_every_length(window):
    """What a CUDA graph that was captured at length 1 needs to be replayed at length 131,072."""
    short, long = (work_of([(1, length)] * 3, window=window, programs=40) for length in (1, 131_072))
    for name in ("units", "program_unit", "program_tile", "program_end"):
        assert getattr(short, name).shape == getattr(long, name).shape


@pytest.mark.parametrize("queries", [1, 50])
def test_no_length_is_read_by_the_host(queries):
    """Tensors without values stand for a GPU's: who reads one raises, where a GPU would make the host wait."""
    from octavo_kernels.triton.backend import TritonBackend

    with FakeTensorMode() as mode:
        batch = batch_of([(queries, 70), (1, 900)])
        fake = PagedBatch(
            *(
                mode.from_tensor(x) if isinstance(x, torch.Tensor) else x
                for x in (
                    batch.query_start_loc,
                    batch.seq_lens,
                    batch.block_table,
                    batch.slot_mapping,
                    batch.max_query_len,
                    batch.max_seq_len,
                )
            )
        )
        key_cache = torch.empty(4, 2, 16, 64)
        plan = TritonBackend().prepare(fake, key_cache, 8).plan
        assert plan.work(fake, 2, 0).units.shape[1] == 5
        assert plan.work(fake, 2, 9).units.shape[1] == 5

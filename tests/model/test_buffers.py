"""A step's inputs in one piece of memory: what the device reads, and what the host may overwrite when."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_runtime.core.batch import FlatBatch, SamplingRow, ScoreRow
from octavo_runtime.runner.buffers import StepBuffers, StepShape, lay_out, shape_of, size_of, table_width

GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)
BLOCK = 4


class LaggingMemory:
    """A device whose copies are made as late as is allowed: when somebody waits for one, or at `finish`."""

    def __init__(self):
        self.devices = []
        self.pending = []

    def host(self, size):
        return torch.empty(size, dtype=torch.uint8)

    def device(self, size):
        self.devices.append(torch.full((size,), 0xEE, dtype=torch.uint8))
        return self.devices[-1]

    def start_copy(self, host, device):
        promised = host.clone()

        def copy():
            if copy in self.pending:
                self.pending.remove(copy)
                assert torch.equal(host, promised), "the host wrote into a piece whose copy was under way"
                device.copy_(host)

        self.pending.append(copy)
        return copy

    def finish(self):
        for copy in list(self.pending):
            copy()


shapes = st.builds(
    StepShape, st.integers(1, 50), st.integers(1, 20), st.sampled_from([64, 256]), st.integers(0, 9), st.integers(0, 9)
)


def make_batch(sequences, *, scores=()):
    """Any numbers that can be told apart, as a scheduler would lay them out."""
    ends = list(accumulate(count for count, _ in sequences))
    return FlatBatch(
        token_ids=[100 + row for row in range(ends[-1])],
        positions=[before + i for count, before in sequences for i in range(count)],
        slot_mapping=[(1 << 40) + row for row in range(ends[-1])],
        query_start_loc=[0, *ends],
        seq_lens=[count + before for count, before in sequences],
        block_tables=[
            [1000 * number + i for i in range(-(-(count + before) // BLOCK))]
            for number, (count, before) in enumerate(sequences)
        ],
        sample_rows=[end - 1 for end in ends],
        sampling=[GREEDY] * len(ends),
        scoring=[ScoreRow(row, 5, 0) for row in scores],
    )


# Sequences as (tokens in this step, tokens before it).
batches = st.lists(st.tuples(st.integers(1, 9), st.integers(0, 300)), min_size=1, max_size=12).map(make_batch)


def assert_holds(inputs, batch, shape):
    """Every number of `batch`, in the dtypes that the kernels want, and what is beyond them without effect."""
    tokens, sequences = len(batch.token_ids), len(batch.seq_lens)
    paged = inputs.batch
    assert inputs.token_ids.tolist() == batch.token_ids + [0] * (shape.tokens - tokens)
    assert inputs.positions.tolist() == batch.positions + [0] * (shape.tokens - tokens)
    assert paged.slot_mapping.tolist() == batch.slot_mapping + [-1] * (shape.tokens - tokens)
    assert paged.query_start_loc.tolist() == batch.query_start_loc + [tokens] * (shape.sequences - sequences)
    assert paged.seq_lens.tolist() == batch.seq_lens + [0] * (shape.sequences - sequences)
    assert inputs.sample_rows.tolist() == batch.sample_rows + [0] * (shape.samples - len(batch.sample_rows))
    assert inputs.score_rows.tolist() == [score.row for score in batch.scoring]
    assert paged.block_table.shape == (shape.sequences, shape.width)
    for row, table in zip(paged.block_table.tolist(), batch.block_tables, strict=False):
        assert row[: len(table)] == table
    assert paged.max_query_len == max(b - a for a, b in pairwise(batch.query_start_loc))
    assert paged.max_seq_len == max(batch.seq_lens)
    wide = (inputs.token_ids, inputs.positions, paged.slot_mapping, inputs.sample_rows, inputs.score_rows)
    assert {tensor.dtype for tensor in wide} == {torch.int64}
    assert {t.dtype for t in (paged.query_start_loc, paged.seq_lens, paged.block_table)} == {torch.int32}


@pytest.mark.parametrize(("blocks", "width"), [(1, 64), (64, 64), (65, 256), (256, 256), (257, 1024), (5000, 16384)])
def test_widths_of_block_tables_are_few(blocks, width):
    assert table_width(blocks) == width


@given(shape=shapes)
def test_fields_lie_apart_and_where_kernels_like_them(shape):
    fields = sorted(lay_out(shape).values(), key=lambda field: field.start)
    assert all(field.start % 16 == 0 for field in fields)
    assert all(first.end <= second.start for first, second in pairwise(fields))
    assert size_of(shape) == max(field.end for field in fields)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(batches, min_size=1, max_size=6))
def test_each_step_reads_its_own_numbers(steps):
    """In any order of sizes, with pieces that grow and numbers of earlier steps all over them."""
    buffers = StepBuffers()
    for batch in steps:
        assert_holds(buffers.fill(batch), batch, shape_of(batch))


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(batches, min_size=1, max_size=6), rows=st.integers(0, 9), wider=st.sampled_from([256, 1024]))
def test_what_is_beyond_a_step_has_no_effect(steps, rows, wider):
    buffers = StepBuffers()
    for batch in steps:
        own = shape_of(batch)
        shape = StepShape(own.tokens + rows, own.sequences + rows, wider, own.samples + rows)
        assert_holds(buffers.fill(batch, shape), batch, shape)


@settings(max_examples=50, deadline=None)
@given(steps=st.lists(batches, min_size=1, max_size=8))
def test_the_host_leaves_a_piece_alone_while_it_is_copied(steps):
    """Copies that lag behind two steps still bring what was there when they began."""
    memory = LaggingMemory()
    buffers = StepBuffers(memory)
    for batch in steps:
        inputs = buffers.fill(batch)
        assert len(memory.pending) <= 2 * len(memory.devices)
    memory.finish()
    assert_holds(inputs, batch, shape_of(batch))


def test_two_steps_do_not_wait_for_each_other():
    """One is filled while the other's copy is under way; the third waits for the first."""
    memory = LaggingMemory()
    buffers = StepBuffers(memory)
    step = make_batch([(1, 7), (1, 9)])
    counts = []
    for _ in range(4):
        buffers.fill(step)
        counts.append(len(memory.pending))
    assert counts == [1, 2, 2, 2]


def test_pieces_that_were_made_within_a_pass_can_be_filled_outside_of_it():
    memory = LaggingMemory()
    buffers = StepBuffers(memory)
    for batch, within in [(make_batch([(900, 0)]), True), (make_batch([(5, 9)]), False), (make_batch([(2, 0)]), True)]:
        with torch.inference_mode(mode=within):
            inputs = buffers.fill(batch)
            memory.finish()
            assert_holds(inputs, batch, shape_of(batch))
            inputs.token_ids[0] = 7


def test_the_devices_addresses_stay_while_steps_fit():
    """What was captured reads them for ever."""
    memory = LaggingMemory()
    largest = StepShape(tokens=8, sequences=8, width=256, samples=8)
    buffers = StepBuffers(memory, size_of(largest))
    for count in (8, 1, 5, 8, 3):
        inputs = buffers.fill(make_batch([(1, 900)] * count), largest)
        start = memory.devices[0].data_ptr()
        assert start <= inputs.token_ids.data_ptr() < start + len(memory.devices[0])
    assert len(memory.devices) == 1


def test_one_copy_takes_no_more_than_the_step():
    copied = []

    class Measured(LaggingMemory):
        def start_copy(self, host, device):
            copied.append((len(host), len(device)))
            return super().start_copy(host, device)

    small, large = make_batch([(1, 3)]), make_batch([(9, 3), (200, 9)])
    buffers = StepBuffers(Measured())
    for batch in (large, small):
        buffers.fill(batch)
    assert copied == [(size_of(shape_of(batch)),) * 2 for batch in (large, small)]


def test_scored_rows_come_along():
    batch = make_batch([(5, 0), (1, 8)], scores=(0, 1, 2, 3))
    assert_holds(StepBuffers().fill(batch), batch, shape_of(batch))

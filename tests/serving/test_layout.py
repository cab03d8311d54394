"""A plan laid out flat."""

from hypothesis import given
from hypothesis import strategies as st

from octavo_runtime.core.batch import BatchPlan, SamplingParams, ScheduledChunk
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.sequence import Sequence


def make_sequence(seq_id, tokens, table, **params):
    sequence = Sequence(seq_id, tokens, SamplingParams(max_tokens=100, **params))
    sequence.block_table = table
    return sequence


def test_the_picture_in_the_docstring():
    first = make_sequence(1, [10, 11, 12, 13], [5, 1], temperature=0.5, top_p=0.9, top_k=3, seed=4)
    second = make_sequence(2, [20, 21, 22], [4, 0])
    first.num_computed = first.num_launched = 3
    batch = flatten(BatchPlan([first], [ScheduledChunk(second, 0, 3, False)]), block_size=2)
    assert batch.token_ids == [13, 20, 21, 22]
    assert batch.positions == [3, 0, 1, 2]
    assert batch.slot_mapping == [3, 8, 9, 0]
    assert batch.query_start_loc == [0, 1, 4]
    assert batch.seq_lens == [4, 3]
    assert batch.block_tables == [[5, 1], [4, 0]]
    assert batch.sample_rows == [0], "an unfinished prompt yields no token"
    row = batch.sampling[0]
    assert (row.temperature, row.top_p, row.top_k, row.seed, row.position) == (0.5, 0.9, 3, 4, 4)


def test_stop_tokens_are_forbidden_until_min_tokens_are_there():
    sequence = make_sequence(1, [1, 2], [0], min_tokens=2, stop_token_ids=frozenset({9}))
    seen = []
    for token in (5, 6, 7):
        plan = BatchPlan([], [ScheduledChunk(sequence, sequence.num_tokens - 1, 1, True)])
        seen.append(flatten(plan, block_size=8).sampling[0].forbidden)
        sequence.append(token)
    assert seen == [{9}, {9}, frozenset()]


@given(st.data(), st.integers(1, 5), st.integers(1, 40))
def test_every_slot_is_where_the_block_table_says(data, block_size, num_tokens):
    start = data.draw(st.integers(0, num_tokens - 1))
    length = data.draw(st.integers(1, num_tokens - start))
    num_blocks = -(-num_tokens // block_size)
    table = data.draw(st.permutations(range(num_blocks)))
    sequence = make_sequence(1, list(range(100, 100 + num_tokens)), table)
    batch = flatten(BatchPlan([], [ScheduledChunk(sequence, start, length, False)]), block_size)
    positions = range(start, start + length)
    assert batch.positions == list(positions)
    assert batch.token_ids == [100 + position for position in positions]
    assert batch.slot_mapping == [table[p // block_size] * block_size + p % block_size for p in positions]

"""The simulated runner: tokens that depend on the whole context, and a cache that catches a scheduler's mistakes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.runner.sim_runner import SimRunner, StepTime, continuation

GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)
PROMPTS = [[1, 2, 3, 4, 5], [9], [1, 2, 3, 4, 6], list(range(20))]


def prefill(tokens: list[int], table: list[int]) -> FlatBatch:
    length = len(tokens)
    return FlatBatch(
        token_ids=tokens,
        positions=list(range(length)),
        slot_mapping=[table[p // 4] * 4 + p % 4 for p in range(length)],
        query_start_loc=[0, length],
        seq_lens=[length],
        block_tables=[table],
        sample_rows=[length - 1],
        sampling=[GREEDY._replace(position=length)],
    )


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_tokens_are_the_continuation_however_they_are_scheduled(drive, chunk):
    runner = SimRunner(num_blocks=40, block_size=4, vocab_size=1000)
    expected = [continuation(prompt, [GREEDY] * 8, 1000) for prompt in PROMPTS]
    assert drive(runner, PROMPTS, 8, chunk=chunk) == expected


def test_a_token_depends_on_every_token_before_it():
    first = continuation([1, 2, 3, 4], [GREEDY], 1 << 40)
    for other in ([2, 2, 3, 4], [1, 2, 4, 3], [1, 2, 3], [1, 2, 3, 4, 4]):
        assert continuation(other, [GREEDY], 1 << 40) != first


def test_the_seed_matters_only_above_temperature_zero():
    row = GREEDY._replace(temperature=1.0)
    assert continuation([1], [GREEDY._replace(seed=5)], 1 << 40) == continuation([1], [GREEDY], 1 << 40)
    assert continuation([1], [row._replace(seed=5)], 1 << 40) != continuation([1], [row], 1 << 40)


def test_forbidden_tokens_are_passed_over():
    (token,) = continuation([1, 2], [GREEDY], 10)
    assert continuation([1, 2], [GREEDY._replace(forbidden=frozenset({token}))], 10) == [(token + 1) % 10]


def test_a_stale_block_is_caught():
    """Another sequence's block in the table, and the position check finds it."""
    runner = SimRunner(num_blocks=4, block_size=4, vocab_size=100)
    runner.execute(prefill([1, 2, 3, 4, 5, 6, 7, 8], [0, 1]))
    decode = replace(
        prefill([5], [1, 2]),
        positions=[4],
        slot_mapping=[8],
        seq_lens=[5],
        sample_rows=[0],
        sampling=[GREEDY._replace(position=5)],
    )
    with pytest.raises(AssertionError, match="stale block"):
        runner.execute(decode)


@pytest.mark.parametrize("wrong", [{"positions": [0, 2]}, {"slot_mapping": [0, 2]}, {"block_tables": [[7]]}])
def test_a_batch_that_contradicts_itself_is_caught(wrong):
    runner = SimRunner(num_blocks=4, block_size=4, vocab_size=100)
    with pytest.raises(AssertionError):
        runner.execute(replace(prefill([1, 2], [0]), **wrong))


def test_a_step_takes_its_time_on_the_given_clock():
    slept: list[float] = []
    runner = SimRunner(4, 4, 100, step_time=StepTime(base=0.5, per_token=0.25), sleep=slept.append)
    runner.execute(prefill([1, 2, 3, 4], [0]))
    assert slept == [1.5]

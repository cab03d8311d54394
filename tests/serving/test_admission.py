"""Who is let in: what fits now must fit later as well, as far as can be known."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_runtime.core.batch import SamplingParams, StepResult
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.peak import OutputLengths, projected_peak
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import Sequence

loads = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 50)), max_size=6)


def make_sequence(seq_id, prompt, max_tokens):
    tokens = list(range(1000 * seq_id, 1000 * seq_id + prompt))
    return Sequence(seq_id, tokens, SamplingParams(max_tokens))


def step(scheduler, now=0.0):
    plan = scheduler.schedule(now)
    scheduler.update(plan, StepResult([1] * len(flatten(plan, 4).sampling)))
    scheduler.check_integrity()
    return plan


@given(loads)
def test_the_peak_is_the_most_that_is_ever_held(loads):
    """Played through step by step: each holds its tokens and one more per step, until its last step is over."""
    played = [
        sum(tokens + now for remaining, tokens in loads if remaining >= now)
        for now in range(max((remaining for remaining, _ in loads), default=0) + 1)
    ]
    assert projected_peak(loads) == max(played, default=0)


def test_the_expected_length_follows_what_answers_turn_out_to_be():
    lengths = OutputLengths()
    fresh = make_sequence(1, 4, max_tokens=1000)
    guesses = []
    for _ in range(200):
        guesses.append(lengths.remaining(fresh))
        lengths.observe(20)
    assert all(later <= earlier for earlier, later in pairwise(guesses))
    assert lengths.remaining(fresh) == pytest.approx(20, abs=2)


def test_an_answer_is_never_expected_to_be_longer_than_it_may_be_nor_over_when_it_is_not():
    lengths = OutputLengths()
    sequence = make_sequence(1, 4, max_tokens=400)
    for token in range(399):
        assert 0 <= lengths.remaining(sequence) <= 400 - token
        sequence.append(token)
    assert lengths.remaining(sequence) == 1


def test_a_sequence_that_fits_now_but_not_at_the_peak_waits():
    pool = BlockPool(20, 4)
    scheduler = Scheduler(pool, max_num_seqs=4, max_num_batched_tokens=64, watermark=0.0)
    scheduler.add(make_sequence(1, 8, max_tokens=40))
    scheduler.add(make_sequence(2, 8, max_tokens=40))
    plans = [step(scheduler) for _ in range(41)]
    assert [s.seq_id for s in plans[0].admitted] == [1], "2 blocks each, but 12 and 12 at the end"
    assert not any(plan.admitted for plan in plans[1:12])
    assert any(plan.admitted for plan in plans[12:]), "when the first is nearly done, both fit at their peak"
    assert scheduler.stats().preemptions == 0


def test_sequences_whose_peak_fits_run_together():
    scheduler = Scheduler(BlockPool(24, 4), max_num_seqs=4, max_num_batched_tokens=64, watermark=0.0)
    scheduler.add(make_sequence(1, 8, max_tokens=40))
    scheduler.add(make_sequence(2, 8, max_tokens=40))
    assert len(step(scheduler).admitted) == 2


def test_a_sequence_alone_is_let_in_whatever_it_may_become():
    scheduler = Scheduler(BlockPool(4, 4), max_num_seqs=4, max_num_batched_tokens=64, watermark=0.5)
    scheduler.add(make_sequence(1, 13, max_tokens=3))
    assert len(step(scheduler).admitted) == 1


def test_a_shared_prefix_counts_once():
    scheduler = Scheduler(BlockPool(24, 4), max_num_seqs=8, max_num_batched_tokens=64, watermark=0.0)
    for seq_id in range(4):
        scheduler.add(Sequence(seq_id, [*range(48), 900 + seq_id], SamplingParams(7)))
    step(scheduler)
    assert len(step(scheduler).admitted) == 3, "12 blocks in common and 2 for each; apart they would be 56"
    assert scheduler.stats().kv_tokens_used <= 20 * 4

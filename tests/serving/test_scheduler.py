"""What the scheduler decides, case by case."""

import pytest

from octavo_runtime.core.ahead import is_foreseeable
from octavo_runtime.core.batch import SamplingParams, StepResult
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import FinishReason, Sequence


def make_scheduler(*, num_blocks=64, block_size=4, seqs=8, budget=16, watermark=0.0, project_peak=False, **options):
    """Lets in what fits now, unless told otherwise, so that few sequences show what happens when blocks run out."""
    return Scheduler(
        BlockPool(num_blocks, block_size),
        max_num_seqs=seqs,
        max_num_batched_tokens=budget,
        watermark=watermark,
        project_peak=project_peak,
        **options,
    )


def make_sequence(seq_id, prompt=3, max_tokens=8, **params):
    tokens = range(1000 * seq_id, 1000 * seq_id + prompt)
    return Sequence(seq_id, list(tokens), SamplingParams(max_tokens=max_tokens, **params))


def step(scheduler, token=1000, now=0.0):
    """One step in which every sequence samples `token`."""
    plan = scheduler.schedule(now)
    outputs = scheduler.update(plan, StepResult([token] * len(flatten(plan, 4).sampling)))
    scheduler.check_integrity()
    return plan, list(outputs.each())


def lengths(plan):
    return {s.seq_id: 1 for s in plan.decodes} | {chunk.sequence.seq_id: chunk.length for chunk in plan.chunks}


def ids(sequences):
    return [sequence.seq_id for sequence in sequences]


def test_no_work_gives_an_empty_plan():
    scheduler = make_scheduler()
    assert scheduler.schedule(0.0).num_sequences == 0
    assert not scheduler.has_work


def test_a_prompt_longer_than_the_budget_is_computed_in_chunks_and_samples_once():
    scheduler = make_scheduler(budget=8)
    scheduler.add(make_sequence(1, prompt=20))
    seen = []
    for _ in range(3):
        plan, outputs = step(scheduler)
        chunk = plan.chunks[0]
        seen.append((chunk.start, chunk.length, chunk.samples, len(outputs)))
    assert seen == [(0, 8, False, 0), (8, 8, False, 0), (16, 4, True, 1)]


def test_running_sequences_decode_before_a_new_prompt_gets_the_rest_of_the_budget():
    scheduler = make_scheduler(budget=8)
    scheduler.add(make_sequence(1))
    scheduler.add(make_sequence(2))
    step(scheduler)
    scheduler.add(make_sequence(3, prompt=20))
    plan, _ = step(scheduler)
    assert lengths(plan) == {1: 1, 2: 1, 3: 6}
    assert plan.num_tokens == 8


def test_no_more_sequences_run_than_allowed():
    scheduler = make_scheduler(seqs=2)
    for seq_id in range(3):
        scheduler.add(make_sequence(seq_id))
    plan, _ = step(scheduler)
    assert set(lengths(plan)) == {0, 1}
    assert scheduler.stats().waiting == 1
    assert scheduler.stats().waiting_tokens == 3


def test_a_prompt_waits_until_all_of_it_fits():
    scheduler = make_scheduler(num_blocks=8, block_size=4, budget=16)
    scheduler.add(make_sequence(1, prompt=12, max_tokens=4))
    step(scheduler)
    scheduler.add(make_sequence(2, prompt=24, max_tokens=4))
    plan, _ = step(scheduler)
    assert lengths(plan) == {1: 1}, "its first chunk would fit, the whole prompt does not"


def test_those_behind_a_prompt_that_does_not_fit_wait_too():
    scheduler = make_scheduler(num_blocks=8, block_size=4)
    scheduler.add(make_sequence(1, prompt=12, max_tokens=4))
    step(scheduler)
    scheduler.add(make_sequence(2, prompt=24, max_tokens=4))
    scheduler.add(make_sequence(3, prompt=1))
    plan, _ = step(scheduler)
    assert lengths(plan) == {1: 1}


def test_the_watermark_keeps_blocks_free_for_those_already_running():
    scheduler = make_scheduler(num_blocks=10, block_size=4, watermark=0.2)
    scheduler.add(make_sequence(1, prompt=8, max_tokens=4))
    step(scheduler)
    scheduler.add(make_sequence(2, prompt=24, max_tokens=4))
    plan, _ = step(scheduler)
    assert lengths(plan) == {1: 1}, "6 of 7 free blocks would leave fewer than 2"


def test_a_sequence_that_needs_the_whole_pool_is_admitted_when_nothing_runs():
    scheduler = make_scheduler(num_blocks=4, block_size=4, watermark=0.5)
    scheduler.add(make_sequence(1, prompt=15, max_tokens=1))
    plan, outputs = step(scheduler)
    assert lengths(plan) == {1: 15}
    assert outputs[0].finish_reason == FinishReason.LENGTH


def test_the_victim_is_the_one_that_has_computed_least_and_it_returns_to_the_head_of_the_queue():
    scheduler = make_scheduler(num_blocks=6, block_size=4, seqs=2, budget=32, prefix_caching=False)
    scheduler.add(make_sequence(1, prompt=4, max_tokens=20))
    scheduler.add(make_sequence(2, prompt=15, max_tokens=9))
    scheduler.add(make_sequence(3, prompt=4, max_tokens=4))
    step(scheduler)  # 1 and 2 are in: 5 blocks
    step(scheduler)  # 1 grows to its second block, 6 of 6
    plan, _ = step(scheduler)  # 2 needs a fifth block
    assert plan.preempted == [1], "older, but 1 loses 5 tokens where 2 would lose 16"
    assert lengths(plan) == {2: 1}, "nobody is admitted in a step that preempts"
    assert scheduler.stats().preemptions == 1
    scheduler.abort(2)
    plan, _ = step(scheduler)
    assert list(lengths(plan)) == [1, 3], "1 goes before 3, which it overtook"
    assert ids(plan.admitted) == [3], "1 was admitted before"
    assert lengths(plan)[1] == 6, "prompt and output are computed again"


def test_among_equals_the_newest_is_the_victim():
    scheduler = make_scheduler(num_blocks=2, block_size=4)
    scheduler.add(make_sequence(1, prompt=4, max_tokens=4))
    scheduler.add(make_sequence(2, prompt=4, max_tokens=4))
    step(scheduler)
    plan, _ = step(scheduler)
    assert plan.preempted == [2]
    assert lengths(plan) == {1: 1}


def test_a_sequence_preempts_itself_when_it_has_computed_least():
    scheduler = make_scheduler(num_blocks=6, block_size=4, budget=64)
    scheduler.add(make_sequence(1, prompt=17, max_tokens=7))
    scheduler.add(make_sequence(2, prompt=4, max_tokens=4))
    step(scheduler)
    plan, _ = step(scheduler)
    assert plan.preempted == [2]
    assert lengths(plan) == {1: 1}


def test_a_chunk_that_was_planned_for_a_later_victim_is_taken_back():
    scheduler = make_scheduler(num_blocks=4, block_size=4, budget=16)
    scheduler.add(make_sequence(1, prompt=2, max_tokens=8))
    scheduler.add(make_sequence(2, prompt=12, max_tokens=4))
    step(scheduler)
    plan, _ = step(scheduler)
    assert plan.preempted == [1]
    assert lengths(plan) == {2: 1}
    assert plan.num_tokens == 1


def test_the_budget_of_a_later_victim_goes_to_those_behind_it():
    scheduler = make_scheduler(num_blocks=13, block_size=4, budget=9)
    scheduler.add(make_sequence(1, prompt=2, max_tokens=8))
    scheduler.add(make_sequence(2, prompt=7, max_tokens=8))
    step(scheduler)
    scheduler.add(make_sequence(3, prompt=40, max_tokens=4))
    assert lengths(step(scheduler)[0]) == {1: 1, 2: 1, 3: 7}
    plan, _ = step(scheduler)  # 2 needs a block, and 1 has computed least
    assert plan.preempted == [1]
    assert lengths(plan) == {2: 1, 3: 8}


def test_a_stop_token_ends_the_sequence_and_frees_its_blocks():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, stop_token_ids=frozenset({7})))
    assert step(scheduler, token=5)[1][0].finish_reason is None
    assert step(scheduler, token=7)[1][0].finish_reason == FinishReason.STOP
    assert not scheduler.has_work
    assert scheduler.stats().kv_tokens_used == 0


def test_max_tokens_ends_the_sequence():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, max_tokens=2))
    assert step(scheduler)[1][0].finish_reason is None
    assert step(scheduler)[1][0].finish_reason == FinishReason.LENGTH


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_an_abort_frees_everything_whether_waiting_prefilling_or_decoding(steps):
    scheduler = make_scheduler(budget=8, seqs=8)
    scheduler.add(make_sequence(1, prompt=10))
    for _ in range(steps):
        step(scheduler)
    assert scheduler.abort(1)
    assert not scheduler.abort(1), "a second abort finds nothing"
    scheduler.check_integrity()
    assert scheduler.stats().kv_tokens_used == 0
    assert scheduler.stats().waiting_tokens == 0


def test_what_could_never_fit_is_an_error_of_the_border():
    with pytest.raises(AssertionError, match="whole KV cache"):
        make_scheduler(num_blocks=2, block_size=4).add(make_sequence(1, prompt=6, max_tokens=3))


def test_totals_count_each_prompt_once_and_every_generated_token():
    scheduler = make_scheduler(num_blocks=2, block_size=4)
    scheduler.add(make_sequence(1, prompt=4, max_tokens=4))
    scheduler.add(make_sequence(2, prompt=4, max_tokens=4))
    while scheduler.has_work:
        step(scheduler)
    stats = scheduler.stats()
    assert stats.preemptions > 0
    assert (stats.prompt_tokens, stats.generation_tokens) == (8, 8)


def launch(scheduler, before=None):
    """Plan and launch one step, on top of `before` where that is under way."""
    plan = scheduler.schedule(0.0)
    batch = flatten(plan, 4, before)
    scheduler.launched(plan)
    scheduler.check_integrity()
    return plan, batch


def take(scheduler, plan, batch, token=1000):
    outputs = scheduler.update(plan, StepResult([token] * len(batch.sampling)))
    scheduler.check_integrity()
    return list(outputs.each())


def test_a_step_on_top_of_another_supposes_that_everybody_goes_on():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1, prompt=3))
    scheduler.add(make_sequence(2, prompt=2, max_tokens=1))
    scheduler.add(make_sequence(3, prompt=5))
    first, first_batch = launch(scheduler)
    second, batch = launch(scheduler, first)
    assert lengths(second) == {1: 1, 3: 1}, "the second ends with its one token"
    assert batch.positions == [3, 5]
    assert (batch.carried_rows, batch.carried_from) == ([0, 1], [0, 2])
    assert [row.position for row in batch.sampling] == [4, 6]
    assert [output.seq_id for output in take(scheduler, first, first_batch)] == [1, 2, 3]
    third, batch = launch(scheduler, second)
    assert (ids(third.decodes), batch.positions, batch.carried_from) == ([1, 3], [4, 6], [0, 1])


def test_a_row_of_a_sequence_that_has_ended_meanwhile_is_dropped():
    scheduler = make_scheduler()
    for seq_id in (1, 2, 3):
        scheduler.add(make_sequence(seq_id, stop_token_ids=frozenset({9} if seq_id == 2 else {7})))
    first, first_batch = launch(scheduler)
    second, second_batch = launch(scheduler, first)
    ended = [output.seq_id for output in take(scheduler, first, first_batch, token=9) if output.finish_reason]
    assert ended == [2]
    assert scheduler.abort(3)
    assert [output.seq_id for output in take(scheduler, second, second_batch)] == [1]
    assert not scheduler.abort(2)


def test_what_is_under_way_is_nobodys_to_share():
    """Only what has been taken is in the prefix cache, since a step may fail."""
    scheduler = make_scheduler(budget=64)
    scheduler.add(make_sequence(1, prompt=9))
    first, batch = launch(scheduler)
    again = make_sequence(1, prompt=9)
    again.seq_id = 2
    scheduler.add(again)
    assert scheduler.schedule(0.0).admitted == [], "it waits for what the first one computes"
    take(scheduler, first, batch)
    plan = scheduler.schedule(0.0)
    assert [sequence.num_computed for sequence in plan.admitted] == [8]


def test_nobody_is_preempted_while_a_step_is_under_way():
    scheduler = make_scheduler(num_blocks=4)
    scheduler.add(make_sequence(1, prompt=7))
    scheduler.add(make_sequence(2, prompt=7))
    first, first_batch = launch(scheduler)
    second, second_batch = launch(scheduler, first)
    assert lengths(second) == {1: 1, 2: 1}
    take(scheduler, first, first_batch)
    third, third_batch = launch(scheduler, second)
    assert (third.postponed, third.preempted, third.num_sequences) == ([1, 2], [], 0)
    assert not is_foreseeable(third)
    take(scheduler, second, second_batch)
    take(scheduler, third, third_batch)
    assert scheduler.schedule(0.0).preempted == [2]


def test_what_is_thrown_away_is_planned_again():
    scheduler = make_scheduler()
    scheduler.add(make_sequence(1))
    first, first_batch = launch(scheduler)
    scheduler.add(make_sequence(2))
    second, _ = launch(scheduler, first)
    assert (lengths(second), ids(second.admitted)) == ({1: 1, 2: 3}, [2])
    scheduler.recall()
    scheduler.check_integrity()
    take(scheduler, first, first_batch)
    again = scheduler.schedule(0.0)
    assert (lengths(again), again.admitted) == (lengths(second), [])


@pytest.mark.parametrize(
    ("params", "foreseeable"),
    [
        ({}, True),
        ({"logprobs": 2, "min_p": 0.1, "logit_bias": ((1, 1.0),), "allowed_token_ids": (1, 2), "min_tokens": 3}, True),
        ({"repetition_penalty": 1.1}, False),
        ({"presence_penalty": 0.1}, False),
        ({"frequency_penalty": 0.1}, False),
        ({"bad_words": ((1, 2),)}, False),
    ],
)
def test_a_step_whose_tokens_decide_what_comes_next_is_not_planned_upon(params, foreseeable):
    scheduler = make_scheduler(seqs=3, budget=3)
    scheduler.add(make_sequence(1, prompt=5, **params))
    plan, _ = launch(scheduler)
    assert is_foreseeable(plan), "it does not sample yet"
    plan, _ = launch(scheduler, plan)
    assert is_foreseeable(plan) == foreseeable

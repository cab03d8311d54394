"""Who is next: a fair share for each tenant, the most urgent request within it, and nobody waits for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octavo_runtime.core.batch import SamplingParams, StepResult
from octavo_runtime.core.blocks import BlockPool
from octavo_runtime.core.layout import flatten
from octavo_runtime.core.scheduler import Scheduler
from octavo_runtime.core.sequence import Sequence
from octavo_runtime.core.waiting import WaitingQueue


def make_sequence(seq_id, tenant="", priority=0, arrived_at=0.0, *, prompt=4, max_tokens=4):
    tokens = list(range(1000 * seq_id, 1000 * seq_id + prompt))
    params = SamplingParams(max_tokens)
    return Sequence(seq_id, tokens, params, tenant=tenant, priority=priority, arrived_at=arrived_at)


def drain(queue):
    taken = []
    while (sequence := queue.take()) is not None:
        taken.append(sequence.seq_id)
    return taken


def test_a_lower_number_is_earlier_and_equals_go_by_arrival():
    queue = WaitingQueue(aging=10)
    for seq_id, priority, arrived_at in ((1, 0, 1.0), (2, -1, 3.0), (3, 1, 0.0), (4, 0, 0.5)):
        queue.add(make_sequence(seq_id, priority=priority, arrived_at=arrived_at))
    assert drain(queue) == [2, 4, 1, 3]


def test_waiting_is_worth_priority():
    queue = WaitingQueue(aging=10)
    queue.add(make_sequence(1, priority=2, arrived_at=0.0))
    queue.add(make_sequence(2, priority=0, arrived_at=19.0))
    queue.add(make_sequence(3, priority=0, arrived_at=21.0))
    assert drain(queue) == [2, 1, 3], "20 seconds make up for two levels"


def test_priority_does_not_count_between_tenants():
    queue = WaitingQueue(aging=10)
    for seq_id in range(3):
        queue.add(make_sequence(seq_id, "pushy", priority=-100))
    queue.add(make_sequence(9, "modest"))
    first = queue.take()
    queue.charge(first, 4)
    assert queue.take().seq_id == 9


def test_who_comes_back_after_a_pause_has_saved_nothing_up():
    queue = WaitingQueue(aging=10)
    busy, other = make_sequence(1, "busy"), make_sequence(2, "other")
    queue.add(busy)
    queue.add(other)
    queue.take(), queue.take()
    queue.leave(other)
    queue.charge(busy, 500)
    queue.add(make_sequence(3, "other"))
    assert queue.served("other") == 500


def test_a_pause_does_not_pay_debts():
    queue = WaitingQueue(aging=10)
    greedy, modest = make_sequence(1, "greedy"), make_sequence(2, "modest")
    queue.add(greedy)
    queue.add(modest)
    queue.take(), queue.take()
    queue.charge(greedy, 500)
    queue.leave(greedy)
    queue.add(make_sequence(3, "greedy"))
    queue.add(make_sequence(4, "modest"))
    assert drain(queue) == [4, 3]


def test_a_preempted_sequence_goes_first():
    queue = WaitingQueue(aging=10)
    ran = make_sequence(1, arrived_at=5.0)
    queue.add(ran)
    queue.take()
    queue.add(make_sequence(2, priority=-5))
    ran.admitted = True
    queue.put_back(ran)
    assert drain(queue) == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-3, 3), st.integers(0, 50)), max_size=30), st.data())
def test_a_sequence_can_be_taken_out_of_any_place(entries, data):
    queue = WaitingQueue(aging=10)
    sequences = [make_sequence(i, str(t), p, float(at)) for i, (t, p, at) in enumerate(entries)]
    for sequence in sequences:
        queue.add(sequence)
    gone = data.draw(st.lists(st.sampled_from(sequences), unique_by=id)) if sequences else []
    for sequence in gone:
        queue.remove(sequence)
        queue.leave(sequence)
    queue.check_integrity(len(sequences) - len(gone))
    assert sorted(drain(queue)) == sorted(s.seq_id for s in sequences if s not in gone)


@pytest.mark.parametrize(("heavy", "light"), [((4, 4), (4, 4)), ((40, 8), (4, 4)), ((4, 40), (16, 16))])
def test_two_tenants_get_the_same_number_of_tokens_however_their_requests_look(heavy, light):
    """One has a queue of requests from the start and the other as well; shapes are (prompt, answer)."""
    pool = BlockPool(400, 4)
    scheduler = Scheduler(pool, max_num_seqs=4, max_num_batched_tokens=64)
    shapes = {"heavy": heavy, "light": light}
    for seq_id in range(240):
        tenant = "heavy" if seq_id < 120 else "light"
        prompt, max_tokens = shapes[tenant]
        scheduler.add(make_sequence(seq_id, tenant, prompt=prompt, max_tokens=max_tokens))
    served, step = dict.fromkeys(shapes, 0), 0
    while len({sequence.tenant for sequence in scheduler.sequences.values()}) == 2:
        step += 1
        plan = scheduler.schedule(float(step))
        for sequence in plan.admitted:
            served[sequence.tenant] += sequence.num_prompt_tokens
        tenants = {seq_id: sequence.tenant for seq_id, sequence in scheduler.sequences.items()}
        for output in scheduler.update(plan, StepResult([0] * len(flatten(plan, 4).sampling))).each():
            served[tenants[output.seq_id]] += len(output.tokens)
        scheduler.check_integrity()
    largest_request = sum(max(heavy, light, key=sum))
    assert abs(served["heavy"] - served["light"]) <= 4 * largest_request, served
    assert min(served.values()) > 3 * 4 * largest_request, "so the bound above says something"

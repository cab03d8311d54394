"""A request that cannot be answered in time costs nothing."""

import pytest

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.core.pace import Pace
from octavo_runtime.core.sequence import FinishReason
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner, StepTime

PROMPT = 40


class Clock:
    """Virtual time, which the runner's steps move on."""

    def __init__(self):
        self.now = 0.0

    def sleep(self, seconds):
        self.now += seconds


def make_engine(clock, base=1.0, per_prefill_token=0.1):
    step_time = StepTime(base=base, per_prefill_token=per_prefill_token)
    runner = SimRunner(64, 4, vocab_size=1000, step_time=step_time, sleep=clock.sleep)
    return Engine(runner, max_num_seqs=4, max_num_batched_tokens=64)


def add(engine, request_id, clock, timeout=None, *, prompt=PROMPT, max_tokens=4):
    tokens = list(range(100 * request_id, 100 * request_id + prompt))
    deadline = None if timeout is None else clock.now + timeout
    engine.add(Add(request_id, tokens, SamplingParams(max_tokens), arrived_at=clock.now, deadline=deadline))


def run(engine, clock):
    """Step until there is no work; return the reasons by request, and the tokens."""
    reasons, tokens = {}, {}
    while engine.has_work:
        for output in engine.step(clock.now).each_output():
            tokens[output.seq_id] = tokens.get(output.seq_id, 0) + len(output.tokens)
            if output.finish_reason:
                reasons[output.seq_id] = output.finish_reason
    return reasons, tokens


def test_the_pace_is_learned_from_steps_of_different_sizes():
    pace = Pace()
    for tokens in (1, 500, 4, 1, 100, 2):
        pace.observe(tokens, 0.5 + 0.01 * tokens)
    assert pace.prefill_seconds(300, budget=1000) == pytest.approx(3.5)
    assert pace.prefill_seconds(300, budget=100) == pytest.approx(4.5), "three steps"


def test_a_pace_of_which_nothing_is_known_is_no_reason_to_refuse():
    pace = Pace()
    assert pace.prefill_seconds(10_000, 512) == 0
    for _ in range(20):
        pace.observe(8, 30.0)
    assert pace.prefill_seconds(10_000, 512) == 0, "steps that are all alike do not tell base from slope"


def test_a_request_whose_prefill_would_take_too_long_is_shed_before_it():
    clock = Clock()
    engine = make_engine(clock)
    add(engine, 1, clock)
    run(engine, clock)
    before = engine.stats().prompt_tokens
    add(engine, 2, clock, timeout=1.0 + 0.1 * PROMPT - 0.5)
    add(engine, 3, clock, timeout=1.0 + 0.1 * PROMPT + 20)
    reasons, tokens = run(engine, clock)
    assert reasons == {2: FinishReason.DEADLINE, 3: FinishReason.LENGTH}
    assert tokens == {2: 0, 3: 4}
    assert engine.stats().prompt_tokens == before + PROMPT


def test_what_the_cache_holds_need_not_be_computed_in_time():
    clock = Clock()
    engine = make_engine(clock)
    add(engine, 1, clock)
    run(engine, clock)
    tokens = [*range(100, 100 + PROMPT), 7]
    engine.add(Add(2, tokens, SamplingParams(1), deadline=clock.now + 2.0))
    assert run(engine, clock)[0] == {2: FinishReason.LENGTH}


def test_a_running_request_ends_at_its_deadline_and_frees_its_blocks():
    clock = Clock()
    engine = make_engine(clock)
    add(engine, 1, clock, timeout=8.0, max_tokens=100)
    reasons, tokens = run(engine, clock)
    assert reasons == {1: FinishReason.DEADLINE}
    assert tokens[1] == 4, "5 s for the prompt, 1 s for each token after it"
    assert engine.stats().kv_tokens_used == 0


def test_a_waiting_request_whose_time_is_over_is_not_started():
    clock = Clock()
    engine = make_engine(clock)
    for request_id in range(4):
        add(engine, request_id, clock, max_tokens=50)
    add(engine, 9, clock, timeout=30.0)
    reasons, tokens = run(engine, clock)
    assert reasons[9] is FinishReason.DEADLINE
    assert tokens[9] == 0
    assert {reasons[request_id] for request_id in range(4)} == {FinishReason.LENGTH}


def test_a_pause_is_not_taken_for_a_slow_step():
    clock = Clock()
    engine = make_engine(clock)
    for request_id in (1, 2):
        add(engine, request_id, clock)
        run(engine, clock)
        clock.sleep(3600)
    add(engine, 3, clock, timeout=20.0)
    assert run(engine, clock)[0] == {3: FinishReason.LENGTH}

"""One step of the engine: a request whose computation raises fails alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import SamplingParams, SamplingRow
from octavo_runtime.engine import startup
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner, continuation

POISON = 49
VOCAB = 50


class PoisonedRunner(SimRunner):
    """Raises when a batch has the poisonous token, as a kernel would for one bad row."""

    broken = False

    def compute(self, batch):
        if self.broken or POISON in batch.token_ids:
            raise RuntimeError("poison")
        return super().compute(batch)


class LateRunner(PoisonedRunner):
    """Raises only when the result is due, as a device does, and computes what comes after all the same."""

    def launch(self, batch):
        poisoned = self.broken or POISON in batch.token_ids
        launched = super().launch(replace(batch, token_ids=[token % POISON for token in batch.token_ids]))
        return PoisonedStep() if poisoned else launched


class PoisonedStep:
    def wait(self):
        raise RuntimeError("poison")


@pytest.fixture(params=["at once", "ahead", "ahead, failing late"])
def make_engine(request):
    def make(num_blocks=64, **options):
        kind = LateRunner if "late" in request.param else PoisonedRunner
        runner = kind(num_blocks, block_size=4, vocab_size=VOCAB - 1)
        options = {"max_num_seqs": 16, "max_num_batched_tokens": 64} | options
        return Engine(runner, plan_ahead=request.param != "at once", **options), runner

    return make


def run(engine):
    """Step until there is no work; return the tokens and the failures by request."""
    tokens, failed = {}, []
    while engine.has_work:
        done = engine.step(now=0.0)
        failed += done.failed
        for output in done.each_output():
            tokens.setdefault(output.seq_id, []).extend(output.tokens)
    return tokens, failed


@pytest.mark.parametrize("culprits", [{0}, {5}, {0, 3, 8}, set(range(9))])
def test_only_the_culprits_fail_and_the_others_get_their_tokens(make_engine, culprits):
    engine, _ = make_engine()
    prompts = {number: [number, POISON if number in culprits else 1, 2] for number in range(9)}
    for number, prompt in prompts.items():
        engine.add(Add(number, list(prompt), SamplingParams(max_tokens=5, temperature=0.0)))
    tokens, failed = run(engine)
    assert set(failed) == culprits
    assert engine.stats().kv_tokens_used == 0
    rows = [SamplingRow(0.0, 1.0, 0, 0, 3 + index) for index in range(5)]
    for number in prompts.keys() - culprits:
        assert tokens[number] == continuation(prompts[number], rows, VOCAB - 1)


def test_a_failed_request_leaves_the_engine_able_to_serve_the_next(make_engine):
    engine, _ = make_engine()
    engine.add(Add(1, [POISON], SamplingParams(max_tokens=5)))
    assert run(engine) == ({}, [1])
    engine.add(Add(2, [1], SamplingParams(max_tokens=5)))
    tokens, failed = run(engine)
    assert (len(tokens[2]), failed) == (5, [])


def test_a_runner_that_cannot_compute_anything_any_more_ends_the_engine(make_engine):
    engine, runner = make_engine()
    engine.add(Add(1, [1, 2], SamplingParams(max_tokens=5)))
    engine.step(now=0.0)
    runner.broken = True
    with pytest.raises(RuntimeError, match="poison"):
        run(engine)


def test_a_step_names_those_that_run_for_the_first_time_and_when_it_began(make_engine):
    engine, _ = make_engine()
    engine.add(Add(7, [1, 2], SamplingParams(max_tokens=3)))
    first, second = engine.step(now=12.5), engine.step(now=13.0)
    assert (first.started_at, first.admitted) == (12.5, [7])
    assert second.admitted == []


def test_an_abort_of_an_unknown_request_is_no_error(make_engine):
    engine, _ = make_engine()
    engine.abort(99)
    assert not engine.has_work


def expected(prompt, count):
    rows = [SamplingRow(0.0, 1.0, 0, 0, len(prompt) + index) for index in range(count)]
    return continuation(prompt, rows, VOCAB - 1)


def test_one_who_fails_in_the_midst_takes_nothing_from_those_who_came_before_and_after(make_engine):
    engine, _ = make_engine()
    prompts = {number: [number, 1, 2] for number in range(4)} | {4: [4, POISON], 5: [5, 1, 2]}
    tokens, failed = {}, []
    for number, prompt in prompts.items():
        engine.add(Add(number, list(prompt), SamplingParams(max_tokens=9, temperature=0.0)))
        done = engine.step(now=0.0)
        failed += done.failed
        for output in done.each_output():
            tokens.setdefault(output.seq_id, []).extend(output.tokens)
    more, more_failed = run(engine)
    assert failed + more_failed == [4]
    for number in prompts.keys() - {4}:
        assert tokens.get(number, []) + more.get(number, []) == expected(prompts[number], 9)
    assert engine.stats().kv_tokens_used == 0


def test_who_leaves_while_a_step_is_under_way_gets_no_more_and_takes_nothing_from_others(make_engine):
    """In so few blocks that those of the one who left are another's at once."""
    engine, _ = make_engine(num_blocks=6)
    got = {}
    for number in range(12):
        engine.add(Add(number, [number, 1, 2, 3, 4, 5], SamplingParams(max_tokens=9, temperature=0.0)))
        for _ in range(2):
            for output in engine.step(now=0.0).each_output():
                got.setdefault(output.seq_id, []).extend(output.tokens)
        if number % 3:
            engine.abort(number)
            got.pop(number, None)
    more, failed = run(engine)
    assert failed == []
    for number in range(0, 12, 3):
        assert got.get(number, []) + more.get(number, []) == expected([number, 1, 2, 3, 4, 5], 9)
    assert not [number for number in range(12) if number % 3 and number in more]
    assert engine.stats().kv_tokens_used == 0


def test_who_has_left_is_not_computed_again_with_a_step_that_failed(monkeypatch):
    runner = LateRunner(64, block_size=4, vocab_size=VOCAB - 1)
    engine = Engine(runner, max_num_seqs=16, max_num_batched_tokens=64, plan_ahead=True)
    for number, token in ((1, POISON), (2, 1), (3, 1)):
        engine.add(Add(number, [number, token], SamplingParams(max_tokens=5, temperature=0.0)))
    engine.step(now=0.0)
    engine.abort(2)
    computed_again = []
    execute = runner.execute
    monkeypatch.setattr(runner, "execute", lambda batch: computed_again.append(len(batch.seq_lens)) or execute(batch))
    tokens, failed = run(engine)
    assert (tokens, failed) == ({3: expected([3, 1], 5)}, [1])
    assert computed_again == [2, 1, 1]


def test_each_step_that_ended_is_counted_once(make_engine):
    engine, _ = make_engine()
    engine.add(Add(1, [1, 2], SamplingParams(max_tokens=5)))
    tokens, _ = run(engine)
    assert engine.steps == len(tokens[1]) == 5


@pytest.mark.parametrize(
    ("asked", "apart", "ahead"), [(None, True, True), (None, False, False), (True, False, True), (False, True, False)]
)
def test_steps_are_planned_ahead_where_that_pays_or_as_asked(asked, apart, ahead):
    runner = SimRunner(64, 4, VOCAB)
    runner.computes_apart = apart
    engine = startup.make_engine(ServeConfig(Path(), async_scheduling=asked), runner)
    engine.add(Add(1, [1, 2], SamplingParams(max_tokens=5)))
    engine.step(0.0)
    assert engine.steps == (0 if ahead else 1)

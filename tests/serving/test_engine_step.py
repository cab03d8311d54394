"""One step of the engine: a request whose computation raises fails alone."""

import pytest

from octavo_runtime.core.batch import SamplingParams, SamplingRow
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.sim_runner import SimRunner, continuation

POISON = 49
VOCAB = 50


class PoisonedRunner(SimRunner):
    """Raises when a batch has the poisonous token, as a kernel would for one bad row."""

    broken = False

    def execute(self, batch):
        if self.broken or POISON in batch.token_ids:
            raise RuntimeError("poison")
        return super().execute(batch)


def make_engine(num_blocks=64):
    runner = PoisonedRunner(num_blocks, block_size=4, vocab_size=VOCAB - 1)
    return Engine(runner, max_num_seqs=16, max_num_batched_tokens=64), runner


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
def test_only_the_culprits_fail_and_the_others_get_their_tokens(culprits):
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


def test_a_failed_request_leaves_the_engine_able_to_serve_the_next():
    engine, _ = make_engine()
    engine.add(Add(1, [POISON], SamplingParams(max_tokens=5)))
    assert run(engine) == ({}, [1])
    engine.add(Add(2, [1], SamplingParams(max_tokens=5)))
    tokens, failed = run(engine)
    assert (len(tokens[2]), failed) == (5, [])


def test_a_runner_that_cannot_compute_anything_any_more_ends_the_engine():
    engine, runner = make_engine()
    engine.add(Add(1, [1, 2], SamplingParams(max_tokens=5)))
    engine.step(now=0.0)
    runner.broken = True
    with pytest.raises(RuntimeError, match="poison"):
        engine.step(now=0.0)


def test_a_step_names_those_that_run_for_the_first_time_and_when_it_began():
    engine, _ = make_engine()
    engine.add(Add(7, [1, 2], SamplingParams(max_tokens=3)))
    first, second = engine.step(now=12.5), engine.step(now=13.0)
    assert (first.started_at, first.admitted) == (12.5, [7])
    assert second.admitted == []


def test_an_abort_of_an_unknown_request_is_no_error():
    engine, _ = make_engine()
    engine.abort(99)
    assert not engine.has_work

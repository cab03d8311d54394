"""Steps that are planned while the one before is computed: what every request gets is what it gets otherwise."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from conformance.tiny import CPU, save_tiny, tiny_config
from octavo_kernels.select import select_backend
from octavo_runtime.core.batch import SamplingParams, SamplingRow, Shaping
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner import sampler, torch_runner
from octavo_runtime.runner.launched import put_carried
from octavo_runtime.runner.sampler import pick
from octavo_runtime.runner.torch_runner import TorchRunner

TOKENS = 14
PROMPTS = [[3 + (7 * number + 5 * index) % 125 for index in range(1 + number % 19)] for number in range(24)]
PLAIN = SamplingParams(max_tokens=TOKENS, temperature=0.0)
DRAWN = SamplingParams(max_tokens=TOKENS, temperature=0.9, top_p=0.9, seed=7)
WISHES = [  # each of which may change a text; those of the second half are chosen by the tokens before
    PLAIN,
    DRAWN,
    replace(DRAWN, seed=8, top_k=5, min_p=0.01),
    replace(DRAWN, stop_token_ids=frozenset(range(0, 128, 5)), min_tokens=4),
    replace(PLAIN, logprobs=2, prompt_logprobs=1),
    replace(PLAIN, logit_bias=((5, 3.0), (9, -3.0)), allowed_token_ids=tuple(range(0, 128, 2))),
    replace(PLAIN, max_tokens=1),
    replace(PLAIN, repetition_penalty=1.3),
    replace(DRAWN, presence_penalty=0.7, frequency_penalty=0.2),
    replace(PLAIN, bad_words=tuple((first, second) for first in range(0, 128, 3) for second in range(0, 128, 7))),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("model")
    save_tiny(transformers.LlamaForCausalLM, tiny_config(transformers.LlamaConfig), folder)
    return folder


@pytest.fixture(scope="module")
def decoder(folder):
    return load_decoder(read_model_info(folder), select_backend("cpu", CPU), device=CPU, dtype=torch.float32)


def make_engine(decoder, num_blocks=600, **options):
    runner = TorchRunner(decoder, num_blocks=num_blocks, block_size=4, device=CPU, dtype=torch.float32)
    return Engine(runner, max_num_seqs=24, max_num_batched_tokens=40, project_peak=False, **options)


def run(engine, requests):
    """All that each request is told, and who failed."""
    for number, (prompt, params) in enumerate(requests):
        engine.add(Add(number, list(prompt), params))
    news, failed, now = {}, [], 0.0
    while engine.has_work:
        now += 1.0
        done = engine.step(now)
        failed += done.failed
        for output in done.each_output():
            told = news.setdefault(output.seq_id, ([], [], []))
            told[0].extend(output.tokens)
            told[1].extend(output.logprobs or ())
            told[2].extend(output.prompt_logprobs or ())
    assert engine.stats().kv_tokens_used == 0
    return news, failed


def test_top_p_that_has_not_looked_at_enough_is_done_again_and_then_done_at_once(decoder, monkeypatch):
    """With four candidates out of 128; a few careful steps, so that both are met several times."""
    monkeypatch.setattr(sampler, "_CANDIDATES", 4)
    monkeypatch.setattr(torch_runner, "CAREFUL_STEPS", 3)
    requests = [(prompt, (DRAWN, PLAIN, WISHES[2])[number % 3]) for number, prompt in enumerate(PROMPTS)]
    expected = run(make_engine(decoder), requests)
    executed = []
    execute = TorchRunner.execute
    monkeypatch.setattr(TorchRunner, "execute", lambda self, batch: executed.append(batch) or execute(self, batch))
    engine = make_engine(decoder, plan_ahead=True)
    assert run(engine, requests) == expected
    assert 2 < len(executed) < engine.steps


@pytest.mark.parametrize("ngram", [0, 3])
@pytest.mark.parametrize("num_blocks", [600, 60])
def test_whatever_is_asked_for(decoder, num_blocks, ngram):
    """In a tenth of the blocks, sequences push each other out and are computed again."""
    requests = [(prompt, WISHES[number % len(WISHES)]) for number, prompt in enumerate(PROMPTS)]
    expected = run(make_engine(decoder), requests)
    engine = make_engine(decoder, num_blocks, plan_ahead=True, speculative_ngram=ngram)
    assert run(engine, requests) == expected
    assert run(engine, requests) == expected, "with their prompts in the cache"
    assert (engine.stats().preemptions > 5) == (num_blocks == 60)


def test_steps_do_overlap(decoder):
    """The first call has nothing to tell, and as many tokens are told by the time that all are there."""
    engine = make_engine(decoder, plan_ahead=True)
    engine.add(Add(1, [5, 6], PLAIN))
    told = [sum(len(output.tokens) for output in engine.step(0.0).each_output()) for _ in range(TOKENS + 1)]
    assert told == [0] + [1] * TOKENS
    assert not engine.has_work


def test_a_request_whose_choice_needs_its_last_token_is_not_planned_ahead(decoder):
    engine = make_engine(decoder, plan_ahead=True)
    engine.add(Add(1, [5, 6], replace(PLAIN, repetition_penalty=1.3)))
    told = [sum(len(output.tokens) for output in engine.step(0.0).each_output()) for _ in range(TOKENS)]
    assert told == [1] * TOKENS


def test_logits_that_are_not_numbers_are_seen_late_and_cost_their_own_request_alone(folder):
    decoder = load_decoder(read_model_info(folder), select_backend("cpu", CPU), device=CPU, dtype=torch.float32)
    requests = [(prompt, (PLAIN, DRAWN)[number % 2]) for number, prompt in enumerate(PROMPTS[:6])]
    expected, _ = run(make_engine(decoder), requests)
    seen = {token for tokens, _, _ in expected.values() for token in tokens}.union(*PROMPTS)
    poison = next(token for token in range(128) if token not in seen)
    decoder._weights.embedding.data[poison] = torch.nan
    engine = make_engine(decoder, plan_ahead=True)
    news, failed = run(engine, [*requests, ([3, poison, 4], DRAWN)])
    assert (news, failed) == (expected, [6])


def test_a_step_on_top_of_one_that_raised_is_refused():
    with pytest.raises(RuntimeError, match="has failed"):
        put_carried(torch.zeros(1, dtype=torch.int64), SimpleNamespace(carried_rows=[0], carried_from=[0]), None)


def test_to_pick_tokens_no_value_is_read_from_the_device():
    """A fake tensor has none. Top-p alone may have to look at the whole vocabulary: to do it surely, it must know."""
    row = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=3, position=9, forbidden=frozenset({4}))
    shaping = Shaping(replace(DRAWN, min_p=0.1, logit_bias=((3, 1.0),), presence_penalty=1.0), [1, 2, 3], 2)
    rows = [row, replace(row, temperature=1.0, top_k=7, top_p=0.5), replace(row, temperature=0.5, shaping=shaping)]
    with FakeTensorMode():
        choice = pick(torch.zeros(3, 5000), rows)
        assert (choice.tokens.shape, choice.certain) == ((3,), None)
        alone = [replace(row, temperature=1.0, top_p=0.5)]
        assert pick(torch.zeros(1, 5000), alone, surely=False).certain is not None
        with pytest.raises(DataDependentOutputException):
            pick(torch.zeros(1, 5000), alone)

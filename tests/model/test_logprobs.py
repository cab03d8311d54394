"""Log probabilities of answers and prompts, through scheduler, layout and runner, against transformers' logits."""

from __future__ import annotations

import pytest
import torch

from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.runner.logprobs import describe

TOKENS = [3, 141, 59, 26, 5, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 197, 1]
PROMPTS = [TOKENS * 7, [9], TOKENS[::-1], TOKENS[:4] * 9]  # the first needs more than one piece of the head's rows
TOP = 5
ROUNDING = 1e-4


@pytest.fixture(scope="module", params=["Llama", "GPTNeoX"], ids=["our decoder", "transformers' code"])
def folder(request, make_model):
    return make_model(request.param)


@pytest.fixture(scope="module")
def reference(folder):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    def rows(tokens):
        """Log probabilities `[len(tokens), vocab_size]` of what follows each token."""
        with torch.inference_mode():
            return model(torch.tensor([tokens])).logits[0].log_softmax(-1)

    return rows


def generate(engine, params, prompts):
    """Tokens, their log probabilities and their prompts', by sequence."""
    for number, prompt in enumerate(prompts):
        engine.add(Add(number, list(prompt), params))
    tokens, logprobs, scores = ([[] for _ in prompts] for _ in range(3))
    while engine.has_work:
        done = engine.step(now=0.0)
        assert not done.failed
        for output in done.each_output():
            tokens[output.seq_id] += output.tokens
            logprobs[output.seq_id] += output.logprobs or []
            scores[output.seq_id] += output.prompt_logprobs or []
    return tokens, logprobs, scores


def check(described, row, token):
    """Where two tokens are equally probable but for rounding, either may come first."""
    assert described.token == token
    assert described.logprob == pytest.approx(row[token].item(), abs=ROUNDING)
    surely, perhaps = ((row > row[token] + shift).sum().item() for shift in (ROUNDING, -ROUNDING))
    assert surely + 1 <= described.rank <= perhaps + 1
    assert [value for _, value in described.top] == pytest.approx(row.topk(TOP).values.tolist(), abs=ROUNDING)
    assert [value for _, value in described.top] == pytest.approx(
        [row[best].item() for best, _ in described.top], abs=ROUNDING
    )


@pytest.mark.parametrize("budget", [512, 32], ids=["whole prompts", "chunks"])
def test_they_are_transformers_log_softmax(folder, runner_of, reference, budget):
    params = SamplingParams(max_tokens=6, temperature=0.7, seed=3, logprobs=TOP, prompt_logprobs=TOP, min_p=0.02)
    engine = Engine(runner_of(folder), max_num_seqs=4, max_num_batched_tokens=budget)
    for prompt, tokens, logprobs, scores in zip(PROMPTS, *generate(engine, params, PROMPTS), strict=True):
        rows = reference(prompt + tokens)
        assert len(scores) == len(prompt) - 1
        for described, row, token in zip(scores, rows, prompt[1:], strict=False):
            check(described, row, token)
        assert len(logprobs) == len(tokens) == 6
        for described, row, token in zip(logprobs, rows[len(prompt) - 1 :], tokens, strict=False):
            check(described, row, token)


def test_a_sequence_that_asks_leaves_its_neighbours_alone(folder, runner_of):
    plain = SamplingParams(max_tokens=6, temperature=0.7, seed=3)
    engine = Engine(runner_of(folder), max_num_seqs=4, max_num_batched_tokens=64)
    expected, _, _ = generate(engine, plain, PROMPTS)
    engine.add(Add(99, TOKENS * 2, SamplingParams(max_tokens=9, seed=8, prompt_logprobs=1, frequency_penalty=1.0)))
    engine.step(now=0.0)
    tokens = [[] for _ in PROMPTS]
    for number, prompt in enumerate(PROMPTS):
        engine.add(Add(number, list(prompt), plain))
    while engine.has_work:
        for output in engine.step(now=0.0).each_output():
            if output.seq_id != 99:
                tokens[output.seq_id] += output.tokens
    assert tokens == expected


def test_logits_that_are_not_numbers_are_an_error():
    with pytest.raises(FloatingPointError):
        describe(torch.full((1, 8), torch.nan), [1], [2])


@pytest.mark.parametrize("vocab_size", [4, 9])
def test_each_row_names_as_many_as_it_asks_for_and_never_more_than_there_are(vocab_size):
    """Ids and ranks come back exactly, though they travel with the probabilities in one piece."""
    logits = torch.arange(float(vocab_size)).repeat(3, 1)
    tops = [0, 2, 20]
    described = describe(logits, [0, vocab_size - 1, 1], tops)
    logprobs = logits[0].log_softmax(-1).tolist()
    best = [(token, pytest.approx(logprobs[token], abs=1e-6)) for token in reversed(range(vocab_size))]
    assert [row.top for row in described] == [best[:top] for top in tops]
    assert [row.rank for row in described] == [vocab_size, 1, vocab_size - 1]
    assert all(isinstance(row.rank, int) and isinstance(row.logprob, float) for row in described)
    assert all(isinstance(token, int) for row in described for token, _ in row.top)

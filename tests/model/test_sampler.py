"""Sampling: the right distribution, and the same draw for the same (seed, position) whatever else is in the batch."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_runtime.core.batch import SamplingParams, SamplingRow, Shaping
from octavo_runtime.runner import sampler
from octavo_runtime.runner.sampler import choose, sample
from octavo_runtime.runner.shaping import shape

GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)
RANDOM = replace(GREEDY, temperature=1.0)


def draws(logits: torch.Tensor, row: SamplingRow, count: int) -> torch.Tensor:
    """Relative frequencies of `count` draws from one row of logits, at as many positions."""
    rows = [replace(row, position=position) for position in range(count)]
    tokens = torch.tensor(sample(logits.repeat(count, 1), rows))
    return tokens.bincount(minlength=logits.shape[-1]) / count


def total_variation(frequencies: torch.Tensor, probabilities: torch.Tensor) -> float:
    return (frequencies - probabilities).abs().sum().item() / 2


def nucleus(probabilities: torch.Tensor, top_p: float) -> torch.Tensor:
    """The smallest set of tokens that reaches `top_p`, renormalised; written the slow way."""
    kept, reached = torch.zeros_like(probabilities), 0.0
    for token in probabilities.argsort(descending=True).tolist():
        kept[token] = probabilities[token]
        reached += probabilities[token].item()
        if reached >= top_p:
            break
    return kept / kept.sum()


@pytest.fixture
def logits() -> torch.Tensor:
    return torch.randn(40, generator=torch.Generator().manual_seed(1)) * 2


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_draws_follow_the_softmax(logits, temperature):
    frequencies = draws(logits, replace(RANDOM, temperature=temperature), 20_000)
    assert total_variation(frequencies, (logits / temperature).softmax(0)) < 0.02


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_draws_from_the_smallest_set_that_reaches_it(logits, top_p):
    expected = nucleus(logits.softmax(0), top_p)
    frequencies = draws(logits, replace(RANDOM, top_p=top_p), 20_000)
    assert total_variation(frequencies, expected) < 0.02
    assert not frequencies[expected == 0].any()


@pytest.mark.parametrize("top_k", [1, 3, 39, 40, 1000])
def test_top_k_draws_from_the_k_most_probable(logits, top_k):
    kept = logits.softmax(0) * (logits >= logits.topk(min(top_k, 40)).values[-1])
    frequencies = draws(logits, replace(RANDOM, top_k=top_k), 20_000)
    assert total_variation(frequencies, kept / kept.sum()) < 0.02
    assert not frequencies[kept == 0].any()


def test_top_p_counts_within_what_top_k_left(logits):
    """The order of transformers: top-k first, then top-p over the renormalised rest."""
    five = logits.softmax(0) * (logits >= logits.topk(5).values[-1])
    expected = nucleus(five / five.sum(), 0.6)
    assert total_variation(draws(logits, replace(RANDOM, top_k=5, top_p=0.6), 20_000), expected) < 0.02


def test_a_nucleus_beyond_the_candidates_is_exact(monkeypatch, logits):
    """When the most probable candidates do not reach top_p, the vocabulary is sorted and the result is the same."""
    rows = [replace(RANDOM, top_p=0.97, position=position) for position in range(500)]
    expected = sample(logits.repeat(500, 1), rows)
    monkeypatch.setattr(sampler, "_CANDIDATES", 4)
    assert sample(logits.repeat(500, 1), rows) == expected


def test_temperature_zero_takes_the_largest(logits):
    assert sample(logits[None].clone(), [GREEDY]) == [int(logits.argmax())]


def test_a_temperature_near_zero_is_greedy_and_not_noise(logits):
    assert sample(logits[None].clone(), [replace(RANDOM, temperature=1e-30)]) == [int(logits.argmax())]


def test_forbidden_tokens_are_not_chosen(logits):
    order = logits.argsort(descending=True).tolist()
    best = frozenset(order[:2])
    assert sample(logits[None].clone(), [replace(GREEDY, forbidden=best)]) == [order[2]]
    assert not draws(logits, replace(RANDOM, forbidden=best), 2_000)[list(best)].any()


def test_the_only_token_left_is_chosen_whatever_its_noise():
    """Top-k 1 under any noise: no draw may fall on a token that was filtered out."""
    logits = torch.zeros(3_000, 7)
    logits[:, 4] = 1
    assert set(sample(logits, [replace(RANDOM, top_k=1, position=p) for p in range(3_000)])) == {4}


def shaping(tokens=(), num_prompt_tokens=0, **params) -> Shaping:
    return Shaping(SamplingParams(max_tokens=10, **params), list(tokens), num_prompt_tokens)


def shaped_slowly(logits: list[float], forbidden: frozenset[int], wanted: Shaping) -> list[float]:
    """What the documentation of OpenAI and vLLM says, one token at a time."""
    params, prompt = wanted.params, wanted.tokens[: wanted.num_prompt_tokens]
    output = wanted.tokens[wanted.num_prompt_tokens :]
    banned = {word[-1] for word in params.bad_words if [*output, word[-1]][-len(word) :] == list(word)}
    out = []
    for token, raw in enumerate(logits):
        value = raw
        if params.allowed_token_ids is not None and token not in params.allowed_token_ids:
            value = -math.inf
        if token in forbidden | banned:
            value = -math.inf
        value += dict(params.logit_bias).get(token, 0)
        if token in prompt or token in output:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        value -= params.frequency_penalty * output.count(token)
        value -= params.presence_penalty if token in output else 0
        out.append(value)
    return out


VOCABULARY = 12
token_ids = st.integers(0, VOCABULARY - 1)
shapings = st.builds(
    lambda tokens, split, params: Shaping(params, tokens, min(split, len(tokens))),
    tokens=st.lists(token_ids, max_size=10),
    split=st.integers(0, 10),
    params=st.builds(
        SamplingParams,
        max_tokens=st.just(10),
        min_p=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
        repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
        presence_penalty=st.sampled_from([0.0, -1.0, 1.5]),
        frequency_penalty=st.sampled_from([0.0, -0.5, 0.7]),
        logit_bias=st.dictionaries(token_ids, st.floats(-100, 100, width=32), max_size=3).map(
            lambda biases: tuple(biases.items())
        ),
        bad_words=st.lists(st.lists(token_ids, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
        logprobs=st.sampled_from([None, 0, 1, 5, 20]),
        allowed_token_ids=st.sampled_from([None, tuple(range(1, VOCABULARY))]),
    ),
)
rows = st.builds(
    SamplingRow,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([0, 5]),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 10_000),
    forbidden=st.frozensets(token_ids, max_size=2),
    shaping=st.none() | shapings,
)


@settings(max_examples=200, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=5))
def test_shaping_is_what_the_documentation_says(batch):
    """Biases, penalties, bad words, allowed and forbidden tokens, all together, against a loop over the vocabulary."""
    logits = torch.randn(len(batch), VOCABULARY, generator=torch.Generator().manual_seed(2), dtype=torch.float32)
    expected = [
        shaped_slowly(values, row.forbidden, row.shaping or shaping())
        for values, row in zip(logits.tolist(), batch, strict=True)
    ]
    shape(logits, batch)
    torch.testing.assert_close(logits, torch.tensor(expected), rtol=1e-5, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_a_draw_does_not_depend_on_the_batch(batch, order):
    """Alone, or among others in any order: the same (seed, position) and logits give the same token."""
    logits = torch.randn(len(batch), VOCABULARY, generator=torch.Generator().manual_seed(2))
    places = list(range(len(batch)))
    order.shuffle(places)
    rows = [batch[i] for i in places]
    try:
        tokens, logprobs = choose(logits[places].clone(), rows)
    except FloatingPointError:
        with pytest.raises(FloatingPointError, match="no token may be chosen"):
            [choose(logits[i : i + 1].clone(), [row]) for i, row in enumerate(batch)]
        return
    for place, index in enumerate(places):
        (token,), alone = choose(logits[index : index + 1].clone(), [batch[index]])
        assert token == tokens[place]
        described = None if logprobs is None else logprobs[place]
        assert (described is None) == (alone is None)
        if alone is not None:
            assert (described.token, described.rank) == (alone[0].token, alone[0].rank)
            assert [token for token, _ in described.top] == [token for token, _ in alone[0].top]
            assert described.logprob == pytest.approx(alone[0].logprob, abs=1e-6)


@pytest.mark.parametrize("min_p", [0.05, 0.3, 0.999])
def test_min_p_drops_what_is_much_less_probable_than_the_best(logits, min_p):
    probabilities = (logits / 0.8).softmax(0)
    kept = probabilities * (probabilities >= min_p * probabilities.max())
    row = replace(RANDOM, temperature=0.8, shaping=shaping(min_p=min_p))
    frequencies = draws(logits, row, 20_000)
    assert total_variation(frequencies, kept / kept.sum()) < 0.02
    assert not frequencies[kept == 0].any()


def test_top_p_counts_within_what_min_p_left(logits):
    probabilities = logits.softmax(0)
    left = probabilities * (probabilities >= 0.2 * probabilities.max())
    expected = nucleus(left / left.sum(), 0.5)
    frequencies = draws(logits, replace(RANDOM, top_p=0.5, shaping=shaping(min_p=0.2)), 20_000)
    assert total_variation(frequencies, expected) < 0.02


def test_a_bad_word_is_begun_but_never_completed():
    """[3, 4]: 4 goes only after a 3 of the output; a 3 that ends the prompt is not the model's."""
    logits = torch.zeros(1, 6)
    logits[0, 4] = 5
    word = {"bad_words": ((3, 4),)}
    assert sample(logits.clone(), [replace(GREEDY, shaping=shaping([1, 3], 1, **word))]) != [4]
    assert sample(logits.clone(), [replace(GREEDY, shaping=shaping([1, 3], 2, **word))]) == [4]
    assert sample(logits.clone(), [replace(GREEDY, shaping=shaping([3, 1], 1, **word))]) == [4]


def test_log_probabilities_are_those_of_the_raw_logits(logits):
    """Whatever temperature, biases and filters make of them."""
    order = logits.argsort(descending=True).tolist()
    wanted = shaping(logprobs=3, logit_bias=((order[6], 100.0),))
    (token,), (described,) = choose(logits[None].clone(), [replace(RANDOM, temperature=0.3, shaping=wanted)])
    reference = logits.double().log_softmax(0)
    assert token == described.token == order[6]
    assert described.rank == 7
    assert described.logprob == pytest.approx(reference[token].item(), abs=1e-5)
    assert [token for token, _ in described.top] == order[:3]
    assert [score for _, score in described.top] == pytest.approx(reference[order[:3]].tolist(), abs=1e-5)


def test_only_rows_that_ask_are_described(logits):
    rows = [GREEDY, replace(GREEDY, shaping=shaping(logprobs=0)), replace(GREEDY, shaping=shaping(min_p=0.5))]
    _, (first, second, third) = choose(logits.repeat(3, 1), rows)
    assert (first, third) == (None, None)
    assert second.top == []
    assert choose(logits[None].clone(), [GREEDY])[1] is None


def test_logits_of_a_pass_without_gradients_can_be_shaped(logits):
    """They are inference tensors, which torch lets nobody change outside of that mode."""
    with torch.inference_mode():
        passed = logits[None] * 1
    best = int(logits.argmax())
    row = replace(GREEDY, forbidden=frozenset({best}), shaping=shaping([best], 0, repetition_penalty=2.0))
    assert sample(passed, [row]) != [best]


def test_a_row_in_which_nothing_may_be_chosen_is_an_error_that_names_it(logits):
    rows = [GREEDY, replace(GREEDY, forbidden=frozenset({5}), shaping=shaping(allowed_token_ids=(5,)))]
    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        sample(logits.repeat(2, 1), rows)


def test_seeds_and_positions_draw_independently(logits):
    """Neighbouring seeds and positions agree as often as independent draws do."""
    probabilities = logits.softmax(0)
    chance = probabilities.square().sum().item()
    first = sample(logits.repeat(5_000, 1), [replace(RANDOM, seed=1, position=p) for p in range(5_000)])
    for other in ({"seed": 2}, {"seed": 1, "shift": 1}):
        shift = other.pop("shift", 0)
        second = sample(logits.repeat(5_000, 1), [replace(RANDOM, position=p + shift, **other) for p in range(5_000)])
        agreement = sum(a == b for a, b in zip(first, second, strict=True)) / 5_000
        assert agreement == pytest.approx(chance, abs=0.03)


def test_logits_that_are_not_numbers_are_an_error_that_names_the_row():
    logits = torch.zeros(3, 8)
    logits[1, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        sample(logits, [GREEDY] * 3)

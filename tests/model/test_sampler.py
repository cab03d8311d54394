"""Sampling: the right distribution, and the same draw for the same (seed, position) whatever else is in the batch."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_runtime.core.batch import SamplingRow
from octavo_runtime.runner import sampler
from octavo_runtime.runner.counter import mix
from octavo_runtime.runner.sampler import sample

GREEDY = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)
RANDOM = GREEDY._replace(temperature=1.0)


def draws(logits: torch.Tensor, row: SamplingRow, count: int) -> torch.Tensor:
    """Relative frequencies of `count` draws from one row of logits, at as many positions."""
    rows = [row._replace(position=position) for position in range(count)]
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
    frequencies = draws(logits, RANDOM._replace(temperature=temperature), 20_000)
    assert total_variation(frequencies, (logits / temperature).softmax(0)) < 0.02


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_top_p_draws_from_the_smallest_set_that_reaches_it(logits, top_p):
    expected = nucleus(logits.softmax(0), top_p)
    frequencies = draws(logits, RANDOM._replace(top_p=top_p), 20_000)
    assert total_variation(frequencies, expected) < 0.02
    assert not frequencies[expected == 0].any()


@pytest.mark.parametrize("top_k", [1, 3, 39, 40, 1000])
def test_top_k_draws_from_the_k_most_probable(logits, top_k):
    kept = logits.softmax(0) * (logits >= logits.topk(min(top_k, 40)).values[-1])
    frequencies = draws(logits, RANDOM._replace(top_k=top_k), 20_000)
    assert total_variation(frequencies, kept / kept.sum()) < 0.02
    assert not frequencies[kept == 0].any()


def test_top_p_counts_within_what_top_k_left(logits):
    """The order of transformers: top-k first, then top-p over the renormalised rest."""
    five = logits.softmax(0) * (logits >= logits.topk(5).values[-1])
    expected = nucleus(five / five.sum(), 0.6)
    assert total_variation(draws(logits, RANDOM._replace(top_k=5, top_p=0.6), 20_000), expected) < 0.02


def test_a_nucleus_beyond_the_candidates_is_exact(monkeypatch, logits):
    """When the most probable candidates do not reach top_p, the vocabulary is sorted and the result is the same."""
    rows = [RANDOM._replace(top_p=0.97, position=position) for position in range(500)]
    expected = sample(logits.repeat(500, 1), rows)
    monkeypatch.setattr(sampler, "_CANDIDATES", 4)
    assert sample(logits.repeat(500, 1), rows) == expected


def test_temperature_zero_takes_the_largest(logits):
    assert sample(logits[None].clone(), [GREEDY]) == [int(logits.argmax())]


def test_a_temperature_near_zero_is_greedy_and_not_noise(logits):
    assert sample(logits[None].clone(), [RANDOM._replace(temperature=1e-30)]) == [int(logits.argmax())]


def test_forbidden_tokens_are_not_chosen(logits):
    order = logits.argsort(descending=True).tolist()
    best = frozenset(order[:2])
    assert sample(logits[None].clone(), [GREEDY._replace(forbidden=best)]) == [order[2]]
    assert not draws(logits, RANDOM._replace(forbidden=best), 2_000)[list(best)].any()


def test_the_only_token_left_is_chosen_whatever_its_noise():
    """Top-k 1 under any noise: no draw may fall on a token that was filtered out."""
    logits = torch.zeros(3_000, 7)
    logits[:, 4] = 1
    assert set(sample(logits, [RANDOM._replace(top_k=1, position=p) for p in range(3_000)])) == {4}


rows = st.builds(
    SamplingRow,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([0, 5]),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 10_000),
    forbidden=st.frozensets(st.integers(0, 39), max_size=2),
)


@settings(max_examples=50, deadline=None)
@given(batch=st.lists(rows, min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_a_draw_does_not_depend_on_the_batch(batch, order):
    """Alone, or among others in any order: the same (seed, position) and logits give the same token."""
    logits = torch.randn(len(batch), 40, generator=torch.Generator().manual_seed(2))
    alone = [sample(logits[i : i + 1].clone(), [row])[0] for i, row in enumerate(batch)]
    places = list(range(len(batch)))
    order.shuffle(places)
    assert sample(logits[places].clone(), [batch[i] for i in places]) == [alone[i] for i in places]


def test_seeds_and_positions_draw_independently(logits):
    """Neighbouring seeds and positions agree as often as independent draws do."""
    probabilities = logits.softmax(0)
    chance = probabilities.square().sum().item()
    first = sample(logits.repeat(5_000, 1), [RANDOM._replace(seed=1, position=p) for p in range(5_000)])
    for other in ({"seed": 2}, {"seed": 1, "shift": 1}):
        shift = other.pop("shift", 0)
        second = sample(logits.repeat(5_000, 1), [RANDOM._replace(position=p + shift, **other) for p in range(5_000)])
        agreement = sum(a == b for a, b in zip(first, second, strict=True)) / 5_000
        assert agreement == pytest.approx(chance, abs=0.03)


def test_the_tensor_hash_is_the_scalar_hash():
    """The vectorised splitmix64 on int64 gives the upper half of what the plain integers give."""
    keys = [0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
    states = torch.tensor([sampler._signed(key) for key in keys])
    expected = [mix((key - 0x9E3779B97F4A7C15) % 2**64, 0) >> 32 for key in keys]
    assert sampler._hash(states).tolist() == expected


def test_logits_that_are_not_numbers_are_an_error_that_names_the_row():
    logits = torch.zeros(3, 8)
    logits[1, 2] = torch.nan
    with pytest.raises(FloatingPointError, match=r"rows \[1\]"):
        sample(logits, [GREEDY] * 3)

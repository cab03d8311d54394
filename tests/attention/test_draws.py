"""The choice of tokens without a sort: the Triton kernels in the interpreter against their specification, which sorts,
and against the sampler that serves on a CPU. Logits lie in NaN, as do outputs before they are written.
"""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from octavo_kernels import draws as specification
from octavo_kernels.draws import Changes, Draws
from octavo_kernels.noise import gumbel, hash_bits, signed
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton import sampling as triton_sampling
from octavo_kernels.triton.backend import TritonBackend
from octavo_runtime.core.batch import SamplingParams, SamplingRow, Shaping
from octavo_runtime.runner.counter import mix, noise_key
from octavo_runtime.runner.drawing import changes_of
from octavo_runtime.runner.sampler import pick, sample
from octavo_runtime.runner.shaping import shape

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
backend = TritonBackend()
PLAIN = SamplingRow(temperature=1.0, top_p=1.0, top_k=0, seed=7, position=3)
EDGE = 1e-5  # of top-p, within which sums in fp32 may decide otherwise


def in_poison(logits):
    """The same numbers as rows of a wider tensor of NaN, with more of it around them."""
    rows, size = logits.shape
    whole = torch.full((rows + 2, size + 16), torch.nan, device=DEVICE)
    view = whole[1:-1, :size]
    view.copy_(logits)
    return view


def random_logits(rows, size, seed=0, spread=3.0):
    return torch.randn(rows, size, generator=torch.Generator().manual_seed(seed)) * spread


def draws_of(rows):
    """`Draws` of rows given as (temperature, top_p, min_p, top_k, seed)."""
    temperature, top_p, min_p, top_k, seed = zip(*rows, strict=True)
    numbers = [torch.tensor(values, dtype=torch.float32, device=DEVICE) for values in (temperature, top_p, min_p)]
    integers = [torch.tensor(values, dtype=torch.int64, device=DEVICE) for values in (top_k, seed)]
    return Draws(numbers[0], numbers[1], numbers[2].log(), *integers)


def assert_drawn(logits, draws):
    """The specification's tokens; at a filter's edge, those of a top-p that is a rounding larger or smaller."""
    tokens, best = backend.draw(in_poison(logits), draws)
    _, expected_best = specification.draw(logits.to(DEVICE), draws)
    torch.testing.assert_close(best, expected_best, rtol=0, atol=0, equal_nan=True)
    allowed = [
        specification.draw(logits.to(DEVICE), draws._replace(top_p=draws.top_p * (1 + edge)))[0]
        for edge in (0, -EDGE, EDGE)
    ]
    assert all(token in {int(one[row]) for one in allowed} for row, token in enumerate(tokens.tolist()))


rows_of_draws = st.tuples(
    st.sampled_from([0.0, 0.3, 1.0, 2.5]),
    st.sampled_from([1.0, 0.999, 0.9, 0.5, 0.01]),
    st.sampled_from([0.0, 0.001, 0.2, 1.0]),
    st.sampled_from([0, 1, 2, 20, 5000]) | st.integers(1, 300),
    st.integers(-(2**63), 2**63 - 1),
)


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rows=st.lists(rows_of_draws, min_size=1, max_size=2),
    size=st.sampled_from([2, 128, 4095, 4096, 4097]) | st.integers(1, 600),
    kind=st.sampled_from(["spread", "flat", "tied", "equal"]),
    seed=st.integers(0, 1000),
)
def test_any_draw(rows, size, kind, seed):
    """Vocabularies around the tile's size; logits that lie apart, close together, by threes on one value, and alike."""
    logits = random_logits(len(rows), size, seed, spread=0.01 if kind == "flat" else 3.0)
    if kind == "tied":
        logits = logits.round()
    assert_drawn(torch.ones_like(logits) if kind == "equal" else logits, draws_of(rows))


def test_each_filter_keeps_its_tokens_and_no_other():
    """A thousand draws by the specification: what is never drawn was dropped, and what was kept is drawn. The kernel
    draws the first few of them.
    """
    logits = torch.linspace(0, -4.5, 10, device=DEVICE)[None].repeat(1000, 1)
    probabilities = logits[0].softmax(0)
    top_p = probabilities[:4].sum().item() - 0.01
    for row, kept in [
        ((1.0, 1.0, 0.0, 3), 3),
        ((1.0, top_p, 0.0, 0), 4),
        ((1.0, 1.0, math.exp(-2.1), 0), 5),
        ((0.5, 1.0, math.exp(-2.1), 0), 3),
        ((1.0, 0.6, 0.0, 2), 1),  # top-p counts within what top-k left
        ((1.0, 0.63, 0.0, 2), 2),
    ]:
        draws = draws_of([(*row, seed) for seed in range(1000)])
        tokens, _ = specification.draw(logits, draws)
        assert set(tokens.tolist()) == set(range(kept)), row
        few, _ = backend.draw(logits[:2], Draws(*(column[:2] for column in draws)))
        assert few.tolist() == tokens[:2].tolist()


@pytest.mark.filterwarnings("ignore:overflow encountered in divide")
def test_a_temperature_near_zero_is_greedy_and_not_noise():
    logits = random_logits(4, 300)
    tokens, _ = backend.draw(logits.to(DEVICE), draws_of([(1e-30, 0.9, 0.0, 5, seed) for seed in range(4)]))
    assert tokens.tolist() == logits.argmax(-1).tolist()


def test_the_largest_is_the_first_of_equals():
    logits = torch.zeros(2, 5000)
    logits[0, [4999, 4321]] = 1
    tokens, best = backend.draw(logits.to(DEVICE), draws_of([(0.0, 1.0, 0.0, 0, 1)] * 2))
    assert (tokens.tolist(), best.tolist()) == ([4321, 0], [1, 0])


def test_what_is_no_choice_is_told_and_leaves_others_alone():
    """NaN and rows in which nothing is left, for the runtime to name."""
    logits = random_logits(4, 5000)
    expected, _ = specification.draw(
        logits.to(DEVICE), draws := draws_of([(1.0, 0.9, 0.0, 40, seed) for seed in range(4)])
    )
    logits[1, 4500] = torch.nan
    logits[2] = -torch.inf
    tokens, best = backend.draw(logits.to(DEVICE), draws)
    assert best.isnan().tolist() == [False, True, False, False]
    assert best[2] == -torch.inf
    assert tokens[[0, 3]].tolist() == expected[[0, 3]].tolist()


def test_a_draw_does_not_depend_on_the_batch():
    """Alone, or among others in any order, the same token from the same row to the last bit of every sum."""
    logits = random_logits(4, 700).to(DEVICE)
    draws = draws_of([(1.0, 0.9, 0.0, 0, seed) for seed in range(4)])
    together, _ = backend.draw(logits, draws)
    order = [3, 1, 0, 2]
    shuffled, _ = backend.draw(logits[order].contiguous(), Draws(*(column[order] for column in draws)))
    alone = [int(backend.draw(logits[i : i + 1], Draws(*(column[i : i + 1] for column in draws)))[0]) for i in range(4)]
    assert shuffled.tolist() == together[order].tolist()
    assert alone == together.tolist()


def test_the_noise_is_the_scalar_hash_of_key_and_token():
    """The vectorised splitmix64 on int64 gives the upper half of what the plain integers give, and a draw's noise is
    the hash of (seed, position, token).
    """
    keys = [0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF]
    expected = [mix((key - 0x9E3779B97F4A7C15) % 2**64, 0) >> 32 for key in keys]
    assert hash_bits(torch.tensor([signed(key) for key in keys])).tolist() == expected
    key = mix(mix(0, 11), 5)
    assert noise_key(11, 5) == signed(key)
    bits = mix((key ^ (6 * 0xBF58476D1CE4E5B9)) - 0x9E3779B97F4A7C15 & (2**64 - 1), 0) >> 32
    noise = -math.log(-math.log1p(-(bits + 0.5) / 2**32))
    assert gumbel(torch.tensor([signed(key)]), 8)[0, 6].item() == pytest.approx(noise, abs=1e-5)


params = st.builds(
    SamplingParams,
    max_tokens=st.just(10),
    min_p=st.sampled_from([0.0, 0.1, 0.5]),
    repetition_penalty=st.sampled_from([1.0, 0.5, 1.3]),
    presence_penalty=st.sampled_from([0.0, -1.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, -0.5, 0.7]),
    logit_bias=st.dictionaries(st.integers(0, 19), st.floats(-9, 9, width=32), max_size=3).map(lambda x: (*x.items(),)),
    bad_words=st.lists(st.lists(st.integers(0, 19), min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    allowed_token_ids=st.sampled_from([None, tuple(range(2, 19))]),
)
shapings = st.builds(
    lambda tokens, split, params: Shaping(params, tokens, min(split, len(tokens))),
    tokens=st.lists(st.integers(0, 19), max_size=12),
    split=st.integers(0, 12),
    params=params,
)
sampling_rows = st.builds(
    SamplingRow,
    temperature=st.sampled_from([0.0, 0.7, 1.0]),
    top_p=st.sampled_from([1.0, 0.8]),
    top_k=st.sampled_from([0, 5]),
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 10_000),
    forbidden=st.frozensets(st.integers(0, 19), max_size=2),
    shaping=st.none() | shapings,
)


@settings(max_examples=15, deadline=None)
@given(batch=st.lists(sampling_rows, min_size=1, max_size=3), seed=st.integers(0, 1000))
@pytest.mark.parametrize("kernels", [ReferenceBackend(), backend], ids=lambda kernels: kernels.name)
def test_the_runtime_samples_the_same_tokens_with_kernels_and_without(kernels, batch, seed):
    """Every penalty and filter of a request at once, through the verbs and through the sampler of a CPU."""
    logits = random_logits(len(batch), 20, seed).to(DEVICE)
    shaped = logits.clone()
    shape(shaped, batch)
    possible = (shaped > -torch.inf).any(-1).tolist()
    rows = [
        row if can else replace(row, forbidden=frozenset(), shaping=None)
        for row, can in zip(batch, possible, strict=True)
    ]
    assert sample(logits.clone(), rows, kernels) == sample(logits, rows)


@settings(max_examples=25, deadline=None)
@given(batch=st.lists(sampling_rows, min_size=1, max_size=4))
def test_changes_are_what_shaping_does(batch):
    """To the last bit but two: what the penalties take is added up before it is taken."""
    logits = random_logits(len(batch), 20).to(DEVICE)
    rows = [replace(row, shaping=row.shaping and row.shaping._replace(
        params=replace(row.shaping.params, allowed_token_ids=None))) for row in batch]  # fmt: skip
    expected = logits.clone()
    shape(expected, rows)
    for kernels in (ReferenceBackend(), backend):
        out = logits.clone()
        changes = changes_of(rows, 20, DEVICE)
        if changes is not None:
            kernels.adjust(out, changes)
        torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-6)


def test_changes_beyond_one_program_and_none_at_all():
    logits = random_logits(3, 1000).to(DEVICE)
    places = torch.randperm(3000, generator=torch.Generator().manual_seed(1))[:700].to(DEVICE)
    numbers = [torch.rand(700, generator=torch.Generator().manual_seed(seed)).to(DEVICE) + 0.5 for seed in range(3)]
    changes, expected = Changes(places, *numbers), logits.clone()
    specification.adjust(expected, changes)
    backend.adjust(logits, changes)
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)
    backend.adjust(logits, Changes(*(column[:0] for column in changes)))
    torch.testing.assert_close(logits, expected, rtol=1e-6, atol=1e-6)


def test_to_pick_tokens_with_kernels_no_value_is_read_from_the_device(monkeypatch):
    """Not even for a top-p that keeps most of the vocabulary: nothing has to be done again."""

    class Launches:
        def __getitem__(self, grid):
            return lambda *_tensors, **_constants: None

    for name in ("draw_kernel", "adjust_kernel"):
        monkeypatch.setattr(triton_sampling, name, Launches())
    shaping = Shaping(
        SamplingParams(max_tokens=4, min_p=0.1, logit_bias=((3, 1.0),), presence_penalty=1.0), [1, 2, 3], 2
    )
    rows = [PLAIN, replace(PLAIN, top_p=0.9999), replace(PLAIN, top_k=7, shaping=shaping)]
    with FakeTensorMode():
        choice = pick(torch.zeros(3, 5000), rows, surely=False, kernels=backend)
        assert (choice.tokens.shape, choice.best.shape, choice.certain) == ((3,), (3,), None)


def test_nothing_to_draw_is_nothing_done():
    tokens, best = backend.draw(
        torch.empty(0, 100, device=DEVICE), Draws(*(column[:0] for column in draws_of([(1.0, 1.0, 0.0, 0, 0)])))
    )
    assert (tokens.shape, best.shape) == ((0,), (0,))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x, draws: backend.draw(x.half(), draws), r"logits are \(2, 16\) in torch.float16; expected \[R, V\]"),
        (lambda x, draws: backend.draw(x[0], draws), r"logits are \(16,\) in torch.float32"),
        (lambda x, draws: backend.draw(x.T, draws), r"rows in one piece; their strides are \(1, 16\)"),
        (lambda x, draws: backend.draw(x[:1], draws), r"temperature is \(2,\) in torch.float32; expected \(1,\)"),
        (
            lambda x, draws: backend.draw(x, draws._replace(key=draws.key.int())),
            r"key is \(2,\) in torch.int32; expected \(2,\) in torch.int64",
        ),
        (
            lambda x, draws: backend.adjust(x, Changes(draws.key, draws.top_p, draws.top_p[:1], draws.top_p)),
            r"factors is \(1,\) in torch.float32; expected \(2,\) in torch.float32",
        ),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.ones(2, 16), draws_of([(1.0, 1.0, 0.0, 0, 0)] * 2))

"""Caches in int8 with a scale for each row: what is stored, where, and attention over it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_kernels import int8
from octavo_kernels.cache_dtype import INT8, cache_shape, head_dim_of
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.native import NativeBackend
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton.backend import TritonBackend

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MIXED = [(1, 6), (4, 6), (1, 1), (1, 80), (3, 67), (2, 16), (33, 40)]
BACKENDS = (ReferenceBackend(), CPUBackend(), NativeBackend(), TritonBackend())
all_backends = pytest.mark.parametrize("backend", BACKENDS, ids=lambda b: b.name)
OPTIONS = {
    "plain": {},
    "window and cap": {"window": 5, "soft_cap": 3.0},
    "sinks and slopes": {"sinks": torch.linspace(-1, 1, 6), "alibi_slopes": torch.linspace(0.01, 0.5, 6)},
}
all_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
ERROR = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # ||o - r|| / ||r||


@pytest.fixture
def case(make_case):
    return make_case(MIXED, num_heads=6, num_kv_heads=2, head_dim=32)


def stored(case):
    """The case with its caches in int8. What was NaN, in the blocks around them too, has scales of NaN."""
    key_cache, value_cache = (within_poison(int8.packed(cache)) for cache in (case.key_cache, case.value_cache))
    return replace(case, key_cache=key_cache, value_cache=value_cache)


def within_poison(cache):
    """A copy between two blocks of NaN that belong to nobody."""
    blocks, *rest = cache.shape
    held = torch.zeros((blocks + 2, *rest), dtype=INT8, device=cache.device)
    int8.scales_of(held)[:] = torch.nan
    held[1:-1] = cache
    return held[1:-1]


def rounded(case, dtype=torch.float32):
    """The case over the numbers that its int8 caches stand for."""
    return replace(
        case, key_cache=int8.read(case.key_cache).to(dtype), value_cache=int8.read(case.value_cache).to(dtype)
    )


def attend(backend, case, **options):
    options = {name: x.to(case.query.device) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads)
    out = torch.full_like(case.query, torch.nan, memory_format=torch.contiguous_format)
    backend.attend(case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out, **options)
    return out


def exact(case, **options):
    """In fp64, over the numbers that int8 caches stand for."""
    case = rounded(case, torch.float64)
    return attend(ReferenceBackend(), replace(case, query=case.query.double()), **options)


def assert_close(out, wanted, dtype=torch.float32):
    error = (out.double() - wanted).norm() / wanted.norm()
    assert error < ERROR[dtype], f"relative error {error:.2e}"  # NaN fails too


# ─── what is stored ───


@settings(max_examples=40, deadline=None)
@given(magnitude=st.floats(-30, 30), seed=st.integers(0, 9))
def test_a_number_is_at_most_half_a_step_from_what_it_was(magnitude, seed):
    """Whatever the row's size, 1e-30 to 1e30; a step is the stored scale, and that is within 1 in 256 of the largest
    number / 127.
    """
    x = torch.randn(7, 64, generator=torch.Generator().manual_seed(seed)) * 10.0**magnitude
    numbers, scale = int8.quantised(x)
    step = scale.double()[:, None]
    assert ((numbers * step - x).abs() <= 0.5000001 * step).all()
    assert ((step[:, 0] * 127 / x.abs().amax(1) - 1).abs() <= 1 / 256).all()


def test_halves_are_rounded_to_even_and_zeros_stay_zeros():
    x = torch.tensor([[127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127], [0.0] * 8])
    numbers, scale = int8.quantised(x)
    assert numbers.tolist() == [[127, 0, 2, 2, 0, -2, -2, -127], [0] * 8]
    assert scale.tolist() == [1, 0]


def test_one_head_of_one_block_is_one_piece_of_memory():
    """Copied as bytes it is the same keys in another block; its rows begin at multiples of 16 bytes."""
    x = torch.randn(3, 2, 16, 64)
    cache = int8.packed(x)
    assert cache.shape == cache_shape(3, 2, 16, 64, INT8) == (3, 2, 16, 66)
    assert head_dim_of(cache) == 64
    moved = torch.zeros_like(cache)
    moved[2, 0] = cache[1, 1]
    assert torch.equal(int8.read(moved)[2, 0], int8.read(cache)[1, 1])
    piece = cache[1, 1].flatten()
    numbers, scale = int8.quantised(x[1, 1])
    assert torch.equal(piece[: 16 * 64], numbers.flatten())
    assert torch.equal(piece[16 * 64 :].view(torch.bfloat16), scale)
    assert all(size * (dim + 2) % 32 == 0 for size in (16, 32, 64) for dim in (64, 80, 96, 128, 256))


STRANGE = {
    "zeros": [0.0] * 32,
    "infinity": [1.0, torch.inf] + [0.5] * 30,
    "NaN": [1.0, torch.nan] + [0.5] * 30,
    "large": [3e38, -3e38] + [1e37] * 30,
    "small": [1e-37, -1e-37] + [3e-38] * 30,
    "tiny": [1e-44] * 32,
    "halves": [127, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -127] * 4,
}


@all_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_written_is_what_the_rule_says(backend, case, dtype):
    """To the last bit, rows of every kind; all other slots stay untouched."""
    key, value, slots = case.key.to(dtype), case.value.to(dtype), case.batch.slot_mapping.clone()
    for row, strange in enumerate(STRANGE.values()):
        key[row, 0] = torch.tensor(strange)
        value[row, 1] = torch.tensor(strange)
    slots[-1] = -1
    shape = cache_shape(*case.key_cache.shape, INT8)
    caches = [torch.full(shape, 77, dtype=INT8, device=key.device) for _ in range(2)]
    backend.write_kv(key, value, *caches, slots)
    for cache, rows in zip(caches, (key, value), strict=True):
        expected = torch.full_like(cache, 77)
        numbers, scales = int8.quantised(rows[:-1])
        blocks, offsets = slots[:-1] // 16, slots[:-1] % 16
        int8.numbers_of(expected)[blocks, :, offsets] = numbers
        int8.scales_of(expected)[blocks, :, offsets] = scales
        assert torch.equal(bits(cache), bits(expected))


def bits(cache):
    """The cache with one NaN for all."""
    cache = cache.clone()
    scales = int8.scales_of(cache)
    scales[scales.isnan()] = torch.nan
    return cache


@all_backends
def test_what_is_no_number_spoils_its_own_sequence_alone(backend, make_case):
    """As in 16 bits: the model that computed it is broken, and its request fails by its logits."""
    case = make_case([(1, 6), (4, 6), (1, 20), (1, 6)], num_heads=6, num_kv_heads=2, head_dim=32)
    caches = [int8.packed(torch.zeros_like(case.key_cache)) for _ in range(2)]
    key = case.key.clone()
    key[3, 1] = torch.tensor(STRANGE["NaN"])  # in the second sequence, its third token
    key[6, 1] = torch.tensor(STRANGE["infinity"])
    backend.write_kv(key, case.value, *caches, case.batch.slot_mapping)
    spoilt = attend(backend, replace(case, key_cache=caches[0], value_cache=caches[1]))
    broken = spoilt.isnan().flatten(1).any(1)
    assert {3, 4, 6} <= set(broken.nonzero().flatten().tolist()) <= {1, 2, 3, 4, 6}


# ─── attention ───


@all_backends
@all_options
def test_attention_is_over_the_numbers_that_are_stored(backend, case, options):
    """The only error of the cache is its rounding. Slots that nobody wrote have scales of NaN, and no influence."""
    case = stored(case)
    assert_close(attend(backend, case, **options), exact(case, **options))


def test_rounding_costs_less_than_a_percent_of_the_result(case):
    """Seven bits of a row's largest number, where e4m3 has three of each."""
    error = (attend(ReferenceBackend(), stored(case)) - case.expected).norm() / case.expected.norm()
    assert 0.0005 < error < 0.01


@settings(max_examples=15, deadline=None)
@given(
    sequences=st.lists(
        st.tuples(st.integers(1, 20), st.integers(0, 60)).map(lambda s: (s[0], sum(s))), min_size=1, max_size=4
    ),
    head_dim=st.sampled_from([16, 40, 80]),
    block_size=st.sampled_from([4, 16]),
    window=st.none() | st.integers(1, 70),
)
def test_any_shape(make_case, sequences, head_dim, block_size, window):
    case = stored(make_case(sequences, head_dim=head_dim, block_size=block_size))
    wanted = exact(case, window=window)
    for backend in BACKENDS[:3]:
        assert_close(attend(backend, case, window=window), wanted)


@pytest.mark.parametrize(
    ("head_dim", "block_size", "heads", "dtype", "queries"),
    [
        (64, 64, (8, 2), torch.bfloat16, 1),
        (80, 16, (3, 1), torch.float32, 20),
        (96, 32, (8, 1), torch.float16, 1),
        (128, 16, (4, 1), torch.bfloat16, 20),
        (256, 32, (4, 2), torch.float16, 20),
    ],
)
def test_head_sizes_and_pages_in_triton(make_case, *, head_dim, block_size, heads, dtype, queries):
    """Decodes and prefills over several tiles, in the tiles that they get."""
    shape = {"head_dim": head_dim, "block_size": block_size, "num_heads": heads[0], "num_kv_heads": heads[1]}
    case = stored(make_case([(queries, 150), (1, 17)], dtype=dtype, **shape))
    assert_close(attend(TritonBackend(), case), exact(case), dtype)


@pytest.mark.parametrize("split", [None, 128], ids=["parts", "batch-invariant"])
def test_contexts_that_are_cut(make_case, split):
    """Among several programs, and at fixed places: scales are of positions, whoever looks at them."""
    case = stored(make_case([(1, 300), (4, 130), (1, 9)], head_dim=64))
    assert_close(attend(TritonBackend(split), case, window=200), exact(case, window=200))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"value_cache": lambda c: c.value_cache[..., :-2]},
            r"value_cache is \(20, 2, 16, 32\), key_cache \(20, 2, 16, 34\)",
        ),
        ({"query": lambda c: c.query[..., :30]}, "query has head_dim 30, the cache 32"),
        (
            {"key_cache": lambda c: c.key_cache.transpose(0, 1).contiguous().transpose(0, 1)},
            "key_cache must be contiguous",
        ),
        (
            {"value_cache": lambda c: c.value_cache.to(torch.bfloat16)},
            r"value_cache is torch.bfloat16, key_cache torch.int8",
        ),
        (
            dict.fromkeys(("key_cache", "value_cache"), lambda _c: torch.zeros(19, 2, 16, 2, dtype=INT8)),
            r"key_cache is \(19, 2, 16, 2\) in int8; expected .*head_dim \+ 2\]",
        ),
    ],
)
@all_backends
def test_what_does_not_fit_is_named(backend, case, change, words):
    case = stored(case)
    wrong = replace(case, **{name: of(case) for name, of in change.items()})
    with pytest.raises(ValueError, match=words):
        backend.attend(
            wrong.query, wrong.key_cache, wrong.value_cache, case.batch, scale=1.0, out=torch.empty(case.query.shape)
        )

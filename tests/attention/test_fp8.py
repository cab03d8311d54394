"""Caches in e4m3: what is stored, and attention over it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl

from octavo_kernels.cache_dtype import FP8, LARGEST, to_cache
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.native import NativeBackend
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton import backend as triton_backend
from octavo_kernels.triton.backend import TritonBackend
from octavo_kernels.triton.e4m3 import as_read, as_stored

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MIXED = [(1, 6), (4, 6), (1, 1), (1, 80), (3, 67), (2, 16), (33, 40)]
all_backends = pytest.mark.parametrize(
    "backend", [ReferenceBackend(), CPUBackend(), NativeBackend(), TritonBackend()], ids=lambda b: b.name
)


@pytest.fixture
def case(make_case):
    return make_case(MIXED, num_heads=6, num_kv_heads=2, head_dim=32)


def attend(backend, case, **options):
    batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads)
    out = torch.full_like(case.query, torch.nan, memory_format=torch.contiguous_format)
    backend.attend(case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out, **options)
    return out


@all_backends
@pytest.mark.parametrize("options", [{}, {"window": 5, "soft_cap": 3.0}], ids=["plain", "window and cap"])
def test_attention_over_eight_bits_is_attention_over_the_numbers_that_they_stand_for(backend, case, options):
    """The only error of the cache is its rounding: over the rounded numbers in fp32, the result is the same."""
    key_cache, value_cache = case.key_cache.to(FP8), case.value_cache.to(FP8)
    rounded = replace(case, key_cache=key_cache.float(), value_cache=value_cache.float())
    stored = replace(case, key_cache=key_cache, value_cache=value_cache)
    expected = attend(ReferenceBackend(), rounded, **options)
    torch.testing.assert_close(attend(backend, stored, **options), expected, rtol=1e-5, atol=1e-5)


BYTES = torch.arange(256, dtype=torch.int32).to(torch.uint8)


@triton.jit
def _convert_kernel(numbers, stored, out, size: tl.constexpr, largest: tl.constexpr):
    places = tl.arange(0, size)
    tl.store(stored + places, as_stored(tl.load(numbers + places), stored.dtype.element_ty, largest))
    tl.store(out + places, as_read(tl.load(stored + places), out.dtype.element_ty))


def convert(numbers):
    """Bytes that `numbers` are stored as, and what they are read as, by integer arithmetic."""
    count = len(numbers)
    padded = torch.zeros(triton.next_power_of_2(count), device=DEVICE)
    padded[:count] = numbers
    stored, out = torch.zeros(len(padded), dtype=torch.uint8, device=DEVICE), torch.zeros_like(padded)
    _convert_kernel[(1,)](padded, stored, out, size=len(padded), largest=LARGEST)
    return stored[:count].cpu(), out[:count].cpu()


@triton.jit
def _halves_kernel(stored, out, size: tl.constexpr):
    places = tl.arange(0, size)
    tl.store(out + places, as_read(tl.load(stored + places), tl.float16))


def convert_halves(stored):
    out = torch.zeros(len(stored), dtype=torch.float16, device=DEVICE)
    _halves_kernel[(1,)](stored.to(DEVICE), out, size=len(stored))
    return out.cpu()


def test_integer_arithmetic_reads_and_writes_every_number_as_the_format_says():
    numbers = BYTES.view(FP8).float()
    stored, read = convert(numbers)
    torch.testing.assert_close(read, numbers, rtol=0, atol=0, equal_nan=True)
    same = ~numbers.isnan()
    assert torch.equal(stored[same], BYTES[same])
    assert set(stored[~same].tolist()) <= {0x7F, 0xFF}


def test_integer_arithmetic_rounds_to_the_nearest_and_ties_to_even():
    """Halfway between each two neighbours, a little to either side of it, and random numbers of every size."""
    exact = BYTES[:127].view(FP8).float()
    halves = (exact[1:] + exact[:-1]) / 2
    spread = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    numbers = torch.cat([halves, halves * (1 + 2**-11), halves * (1 - 2**-11), spread, spread * 1e-3, spread * 300])
    numbers = torch.cat([numbers, -numbers, torch.tensor([0.0, 1e-30, 465.0, 1e9, -1e9, torch.inf])])
    stored, _ = convert(numbers)
    assert torch.equal(stored.view(FP8).float(), to_cache(numbers, FP8).float())


@pytest.mark.parametrize(
    "options",
    [{}, {"window": 70, "soft_cap": 50.0, "sinks": torch.tensor([1.0, -50.0, 60.0, 0.0])}],
    ids=["plain", "masks"],
)
def test_queries_in_bf16_of_any_size_meet_halves(make_case, options):
    """Rows of numbers far beyond fp16, far below it, and of none; contexts that are cut among programs."""
    sizes = torch.tensor([1e5, 1.0, 1e-30, 0.0])[:, None]
    case = make_case([(1, 290), (1, 6), (3, 70)], num_heads=4, num_kv_heads=1, head_dim=64, dtype=torch.bfloat16)
    keys = case.key_cache.float() * 1e-3  # so that scores of the largest rows are numbers still
    stored = replace(
        case,
        query=(case.query.float() * sizes.to(case.query.device)).bfloat16(),
        key_cache=keys.to(FP8),
        value_cache=case.value_cache.to(FP8),
    )
    rounded = replace(
        stored,
        query=stored.query.double(),
        key_cache=stored.key_cache.double(),
        value_cache=stored.value_cache.double(),
    )
    options = {name: x.to(case.query.device) if isinstance(x, torch.Tensor) else x for name, x in options.items()}
    out, wanted = attend(TritonBackend(), stored, **options).double(), attend(ReferenceBackend(), rounded, **options)
    assert stored.batch.max_query_len * 4 <= 16, "a decode's tile"
    torch.testing.assert_close(out, wanted, rtol=2**-6, atol=2**-8)


def test_bytes_become_halves_without_a_way_through_more_bits():
    out = convert_halves(BYTES)
    torch.testing.assert_close(out, BYTES.view(FP8).half(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("options", [{}, {"window": 5, "soft_cap": 3.0}], ids=["plain", "window and cap"])
def test_a_gpu_without_the_format_reads_the_same_numbers(case, monkeypatch, options):
    """As bytes, with NaN where nothing was written."""
    monkeypatch.setattr(triton_backend, "architecture_of", lambda _device: 80)
    key_cache, value_cache = case.key_cache.to(FP8), case.value_cache.to(FP8)
    rounded = replace(case, key_cache=key_cache.float(), value_cache=value_cache.float())
    stored = replace(case, key_cache=key_cache, value_cache=value_cache)
    expected = attend(ReferenceBackend(), rounded, **options)
    torch.testing.assert_close(attend(TritonBackend(), stored, **options), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fused", [False, True])
def test_a_gpu_without_the_format_writes_the_nearest_numbers(case, monkeypatch, fused):
    """What the interpreter cannot show of the instruction: rounding, and NaN."""
    monkeypatch.setattr(triton_backend, "architecture_of", lambda _device: 80)
    key, value, slots = case.key.clone(), case.value, case.batch.slot_mapping
    key[0, 0, :4] = torch.tensor([1e6, -460.0, 2.0**-9, torch.nan])
    key_cache, value_cache = (torch.full_like(case.key_cache, torch.nan).to(FP8) for _ in range(2))
    if fused:
        settings = {"slot_mapping": slots, "norms": None, "eps": 1e-6, "rotation": None}
        TritonBackend().write_rotated(case.query, key, value, key_cache, value_cache, **settings)
    else:
        TritonBackend().write_kv(key, value, key_cache, value_cache, slots)
    for cache, rows in ((key_cache, key), (value_cache, value)):
        written = cache.float()[slots // 16, :, slots % 16]
        torch.testing.assert_close(written, to_cache(rows, FP8).float(), rtol=0, atol=0, equal_nan=True)
        assert int((~cache.float().isnan()).sum()) == int((~rows.isnan()).sum())


def test_rounding_costs_a_few_percent_of_the_result(case):
    """Three bits of mantissa: at most 1 part in 16 for each number, less for a sum of many."""
    stored = replace(case, key_cache=case.key_cache.to(FP8), value_cache=case.value_cache.to(FP8))
    error = (attend(ReferenceBackend(), stored) - case.expected).norm() / case.expected.norm()
    assert 0.001 < error < 0.06


@all_backends
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_is_written_is_the_nearest_number_and_at_most_the_largest(backend, case, dtype):
    """Every number of e4m3 is stored as it is, what lies beyond as 448; all other slots stay untouched.

    Triton's interpreter loses a carry when it rounds, and turns NaN into 384: only a GPU can show both.
    """
    interpreted = backend.name == "triton" and case.key.device.type == "cpu"
    key, value = case.key.to(dtype), case.value.to(dtype)
    if interpreted:
        key, value = key.to(FP8).to(dtype), value.to(FP8).to(dtype)
    key[0, 0, :5] = torch.tensor([1e6, -1e6, 460.0, 2.0**-9, 448.0 if interpreted else torch.nan])
    key_cache, value_cache = (torch.full_like(case.key_cache, torch.nan).to(FP8) for _ in range(2))
    slots = case.batch.slot_mapping
    backend.write_kv(key, value, key_cache, value_cache, slots)
    for cache, rows in ((key_cache, key), (value_cache, value)):
        written = cache.float()[slots // 16, :, slots % 16]
        torch.testing.assert_close(written, to_cache(rows, FP8).float(), rtol=0, atol=0, equal_nan=True)
        assert int((~cache.float().isnan()).sum()) == int((~rows.isnan()).sum())
    assert key_cache[slots[0] // 16, 0, slots[0] % 16, :3].tolist() == [448.0, -448.0, 448.0]

"""Caches in e4m3: what is stored, and attention over it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from octavo_kernels.cache_dtype import FP8, to_cache
from octavo_kernels.cpu import CPUBackend
from octavo_kernels.native import NativeBackend
from octavo_kernels.reference import ReferenceBackend
from octavo_kernels.triton.backend import TritonBackend

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
        written = cache[slots // 16, :, slots % 16].float()
        torch.testing.assert_close(written, to_cache(rows, FP8).float(), rtol=0, atol=0, equal_nan=True)
        assert int((~cache.float().isnan()).sum()) == int((~rows.isnan()).sum())
    assert key_cache[slots[0] // 16, 0, slots[0] % 16, :3].tolist() == [448.0, -448.0, 448.0]

"""Sequences divided over several programs and merged again: the Triton kernels in the interpreter against fp64.

Few, large tiles: the interpreter takes 10 ms for an iteration of the kernel's loop.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_kernels.triton import backend as triton_backend
from octavo_kernels.triton.backend import TritonBackend

ERROR = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}  # ||o - r|| / ||r||


def attend(case, **options):
    backend = TritonBackend()
    batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads)
    out = torch.full_like(case.query, torch.nan, memory_format=torch.contiguous_format)
    backend.attend(case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out, **options)
    return out


def assert_close(out, case):
    error = (out.double() - case.expected).norm() / case.expected.norm()
    assert error < ERROR[case.shape.dtype], f"relative error {error:.2e}"  # NaN fails too


@pytest.fixture
def on_multiprocessors(monkeypatch):
    """`on_multiprocessors(n)`: as if the device had n of them; three programs each in decode, two in prefill."""
    return lambda count: monkeypatch.setattr(triton_backend, "multiprocessors_of", lambda _: count)


@pytest.mark.parametrize("multiprocessors", [1, 3, 8])
def test_a_long_context_among_short_ones(make_case, on_multiprocessors, multiprocessors):
    """Cut in none to ten parts; the short ones lie within one program, or across a border."""
    on_multiprocessors(multiprocessors)
    case = make_case([(1, 9), (1, 700), (1, 64), (1, 1)], head_dim=64)
    assert_close(attend(case), case)


@pytest.mark.parametrize("multiprocessors", [1, 3])
def test_prefills_beside_decodes(make_case, on_multiprocessors, multiprocessors):
    """Parts in which some of a tile's queries see nothing, and others all."""
    on_multiprocessors(multiprocessors)
    case = make_case([(1, 300), (70, 140), (1, 5), (33, 33)], head_dim=64, num_heads=8)
    assert_close(attend(case), case)


@pytest.mark.parametrize(
    ("head_dim", "block_size", "heads", "dtype"),
    [
        (64, 64, (8, 2), torch.bfloat16),
        (80, 16, (3, 1), torch.float32),
        (96, 32, (8, 1), torch.float16),
        (128, 16, (4, 1), torch.bfloat16),
        (128, 64, (2, 2), torch.float16),
        (256, 32, (16, 2), torch.float32),
        (256, 64, (4, 1), torch.bfloat16),
    ],
)
@pytest.mark.parametrize("queries", [1, 20], ids=["decode", "mixed"])
def test_head_sizes_and_pages(make_case, *, head_dim, block_size, heads, dtype, queries):
    """Every head size and block size that is served, in the tiles that they get."""
    num_heads, num_kv_heads = heads
    case = make_case(
        [(queries, 150), (1, 17)],
        head_dim=head_dim,
        block_size=block_size,
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        dtype=dtype,
    )
    assert_close(attend(case), case)


@settings(max_examples=10, deadline=None)
@given(
    contexts=st.lists(st.sampled_from([1, 15, 16, 17, 63, 64, 65]) | st.integers(1, 260), min_size=1, max_size=4),
    multiprocessors=st.integers(1, 4),
)
def test_any_decode(make_case, contexts, multiprocessors):
    """Borders of blocks and tiles, on devices of any size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_backend, "multiprocessors_of", lambda _: multiprocessors)
        case = make_case([(1, length) for length in contexts], head_dim=64, num_heads=4, num_kv_heads=1)
        assert_close(attend(case), case)


def test_sequences_without_queries_are_passed_over(make_case):
    """How a step is padded to the size that a CUDA graph was captured for: they write nothing, and read nothing."""
    case = make_case([(1, 100), (1, 20)], head_dim=64)
    padded = replace(
        case.batch,
        query_start_loc=torch.tensor([0, 1, 1, 2, 2, 2], dtype=torch.int32),
        seq_lens=torch.tensor([100, 0, 20, 1, 0], dtype=torch.int32),
        block_table=case.batch.block_table[[0, 0, 1, 0, 0]].contiguous(),
    )
    padded.block_table[[1, 3, 4]] = 1 << 30
    assert_close(attend(replace(case, batch=padded)), case)


def test_a_plan_follows_lengths_that_change_in_place(make_case):
    """What a CUDA graph replays: the same tensors with other lengths in them, all of `prepare` and `attend` again."""
    case = make_case([(1, 300), (1, 3)], head_dim=64)
    lengths = case.batch.seq_lens.clone()
    backend, out = TritonBackend(), torch.empty_like(case.query)
    shapes = []
    for captured in (True, False):
        case.batch.seq_lens.copy_(torch.ones_like(lengths) if captured else lengths)
        batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads)
        backend.attend(case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out)
        shapes.append((batch.plan.programs, [part.shape for part in batch.plan.parts]))
    assert shapes[0] == shapes[1]
    assert_close(out, case)

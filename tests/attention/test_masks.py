"""Sliding windows and soft caps: every backend that has them computes what a loop over the positions does."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from octavo_kernels.cpu import CPUBackend
from octavo_kernels.native import NativeBackend
from octavo_kernels.reference import ReferenceBackend

CPU = torch.device("cpu")
MIXED = [(1, 6), (4, 6), (1, 1), (5, 5), (1, 80), (3, 67), (70, 150), (1, 17), (7, 32)]
backends = pytest.mark.parametrize("backend", [ReferenceBackend(), CPUBackend(), NativeBackend()], ids=lambda b: b.name)


def expected(case, window, soft_cap, sinks=None, slopes=None):
    """One query, one head and one visible position set at a time, in fp64."""
    shape, batch = case.shape, case.batch
    rows = []
    for sequence, (num_queries, length) in enumerate(shape.sequences):
        for i in range(num_queries):
            own = length - num_queries + i
            positions = [p for p in range(own + 1) if window is None or own - p < window]
            blocks = [int(batch.block_table[sequence, p // shape.block_size]) for p in positions]
            offsets = [p % shape.block_size for p in positions]
            query = case.query[len(rows)].double()
            keys, values = (cache[blocks, :, offsets].double() for cache in (case.key_cache, case.value_cache))
            group = shape.num_heads // shape.num_kv_heads
            scores = torch.einsum("hd,phd->hp", query, keys.repeat_interleave(group, 1)) * case.scale
            if soft_cap is not None:
                scores = soft_cap * torch.tanh(scores / soft_cap)
            if slopes is not None:
                scores += slopes.double()[:, None] * (torch.tensor(positions) - own)
            if sinks is not None:  # one position more, of value 0
                scores = torch.cat([scores, sinks.double()[:, None]], dim=1)
                values = torch.cat([values, torch.zeros_like(values[:1])])
            rows.append(torch.einsum("hp,phd->hd", scores.softmax(-1), values.repeat_interleave(group, 1)))
    return torch.stack(rows)


def attend(backend, case, **options):
    out = torch.full_like(case.query, torch.nan, memory_format=torch.contiguous_format)
    batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads)
    backend.attend(case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=out, **options)
    return out


@backends
@settings(max_examples=25, deadline=None)
@given(
    window=st.none() | st.integers(1, 200),
    soft_cap=st.none() | st.sampled_from([0.5, 5.0, 50.0]),
    head_dim=st.sampled_from([16, 40, 80]),
)
def test_any_window_and_cap(backend, make_case, *, window, soft_cap, head_dim):
    case = make_case(MIXED, head_dim=head_dim, device=CPU)
    out = attend(backend, case, window=window, soft_cap=soft_cap)
    wanted = expected(case, window, soft_cap)
    assert (out.double() - wanted).norm() / wanted.norm() < 1e-6


@backends
def test_a_window_of_one_sees_its_own_token_alone(backend, make_case):
    """The weights of a single position are 1, so the output is its value."""
    case = make_case([(5, 5), (1, 130)], num_heads=2, num_kv_heads=2, device=CPU)
    torch.testing.assert_close(attend(backend, case, window=1), case.value)


@backends
def test_layers_of_one_step_may_differ_in_their_window(backend, make_case):
    """One plan serves layers with and without a window (Gemma), in any order."""
    case = make_case(MIXED, device=CPU)
    batch = backend.prepare(case.batch, case.key_cache, case.shape.num_heads)
    outs = []
    for window in (8, None, 8, None):
        outs.append(torch.empty(case.query.shape))
        backend.attend(
            case.query, case.key_cache, case.value_cache, batch, scale=case.scale, out=outs[-1], window=window
        )
    assert torch.equal(outs[0], outs[2])
    assert torch.equal(outs[1], outs[3])
    assert not torch.equal(outs[0], outs[1])


@pytest.mark.parametrize(("window", "soft_cap"), [(1, None), (40, None), (70, 5.0), (None, 0.5), (500, 50.0)])
def test_the_triton_kernel_in_the_interpreter(make_case, window, soft_cap):
    """Windows shorter, about as long and longer than a tile of positions; few cases, as the interpreter is slow."""
    from octavo_kernels.triton.backend import TritonBackend

    case = make_case([(1, 6), (4, 6), (1, 150), (30, 150)], num_heads=4, num_kv_heads=2, head_dim=64, device=CPU)
    out = attend(TritonBackend(), case, window=window, soft_cap=soft_cap)
    wanted = expected(case, window, soft_cap)
    assert (out.double() - wanted).norm() / wanted.norm() < 1e-6


PER_HEAD = {
    "sinks": {"sinks": torch.tensor([0.5, -40.0, 3.0, 60.0])},
    "slopes": {"alibi_slopes": torch.tensor([0.5, 0.25, 0.0, 2.0])},
    "both": {"sinks": torch.tensor([2.0, 1.0, 0.0, -1.0]), "alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
}


def assert_per_head(backend, case, named, **options):
    """Against the loop, in fp64. Sinks of 60 leave nothing of a row, of -40 all."""
    per_head = PER_HEAD[named]
    out = attend(backend, case, **options, **per_head)
    wanted = expected(
        case, options.get("window"), options.get("soft_cap"), per_head.get("sinks"), per_head.get("alibi_slopes")
    )
    assert (out.double() - wanted).norm() / wanted.norm() < 1e-6


@backends
@pytest.mark.parametrize("named", PER_HEAD)
@pytest.mark.parametrize("options", [{}, {"window": 9}, {"soft_cap": 5.0}], ids=["plain", "window", "cap"])
def test_sinks_and_slopes(backend, make_case, named, options):
    """Decodes, prefills and chunks, with what a layer of GPT-OSS (sinks and a window) or BLOOM (slopes) has."""
    assert_per_head(backend, make_case(MIXED, device=CPU), named, **options)


@pytest.mark.parametrize(("named", "window"), [("sinks", None), ("slopes", None), ("both", 30)])
def test_sinks_and_slopes_in_triton(make_case, named, window):
    """A sink counts once for a row, however many programs share its positions."""
    from octavo_kernels.triton.backend import TritonBackend

    case = make_case([(1, 6), (1, 290), (4, 66)], num_heads=4, num_kv_heads=2, head_dim=64, device=CPU)
    assert_per_head(TritonBackend(), case, named, window=window)
    decodes = make_case([(1, 6), (1, 290)], num_heads=4, num_kv_heads=2, head_dim=64, device=CPU)
    assert_per_head(TritonBackend(), decodes, named, window=window)


@backends
def test_numbers_of_heads_are_checked(backend, make_case):
    case = make_case([(1, 6)], device=CPU)
    with pytest.raises(ValueError, match=r"sinks is \(3,\); expected \(4,\)"):
        attend(backend, case, sinks=torch.zeros(3))
    with pytest.raises(ValueError, match=r"alibi_slopes is \(4, 1\)"):
        attend(backend, case, alibi_slopes=torch.zeros(4, 1))

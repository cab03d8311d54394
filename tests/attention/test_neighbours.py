"""The small Triton kernels around attention against fp64: inputs lie in NaN, and outputs are NaN before and around."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octavo_kernels.plain import PlainVerbs
from octavo_kernels.triton.backend import TritonBackend
from octavo_kernels.triton.rms_norm import norm_launch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MARGIN = 64  # numbers on each side of a tensor that belong to nobody
ERROR = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}  # ||o - r|| / ||r||
EPS = 1e-5
backend = TritonBackend()
dtypes = pytest.mark.parametrize("dtype", ERROR, ids=str)
# The interpreter stands on numpy, which warns where an exponential becomes infinite on its way to a quotient of 0.
overflowing = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
few = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def outputs(monkeypatch):
    """Every tensor that the backend allocates: NaN, in the middle of more NaN."""
    made = []

    def guarded(*size, dtype=torch.float32, device=None):
        count = math.prod(torch.Size(*size) if isinstance(size[0], tuple) else size)
        whole = torch.full((count + 2 * MARGIN,), torch.nan, dtype=dtype, device=device)
        made.append(whole)
        return whole[MARGIN : MARGIN + count].view(*size)

    monkeypatch.setattr(torch, "empty", guarded)
    return made


def in_poison(rows, *size, dtype=torch.float32, seed=0, spread=1.0):
    """Random `[rows, *size]`, NaN between its rows and around them, as a slice of a wider tensor is."""
    width = math.prod(size)
    whole = torch.full((rows + 2, width + 16), torch.nan, dtype=dtype, device=DEVICE)
    view = whole[1:-1, 8 : 8 + width].unflatten(1, size)
    view.copy_(torch.randn(view.shape, generator=torch.Generator().manual_seed(seed)) * spread)
    return view


def assert_close(out, expected):
    error = (out.double() - expected).norm() / expected.norm()
    assert error < ERROR[out.dtype], f"relative error {error:.2e}"  # NaN fails too


def assert_untouched(outputs):
    assert all(whole[:MARGIN].isnan().all() and whole[-MARGIN:].isnan().all() for whole in outputs)


sizes = st.sampled_from([1, 16, 64, 65, 128, 576, 1000, 1024, 4096]) | st.integers(1, 700)


@few
@given(rows=st.integers(1, 20), heads=st.sampled_from([None, 1, 3, 8]), size=sizes)
def test_any_norm(outputs, rows, heads, size):
    """Whole rows, and heads of rows, whatever their size is."""
    outputs.clear()
    x = in_poison(rows, *([] if heads is None else [heads]), size)
    weight = torch.rand(size, device=DEVICE) + 1  # Gemma's are offset by 1 when they are loaded
    out = backend.rms_norm(x, weight, EPS)
    assert out.shape == x.shape
    assert_close(out, x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + EPS) * weight.double())
    assert_untouched(outputs)


@dtypes
def test_norm_in_every_precision(outputs, dtype):
    x, weight = in_poison(5, 576, dtype=dtype), torch.rand(576, device=DEVICE)
    out = backend.rms_norm(x, weight, EPS)
    assert out.dtype == dtype
    assert_close(out, x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + EPS) * weight.double())
    assert_untouched(outputs)


@dtypes
@pytest.mark.parametrize("size", [48, 1030])
def test_a_sum_and_its_norm_are_what_two_steps_give(outputs, dtype, size):
    """The sum is rounded before it is normed, so that both say the same of it.

    Triton's interpreter cuts bf16 off where a GPU rounds.
    """
    x, residual = in_poison(9, size, dtype=dtype), in_poison(9, size, dtype=dtype, seed=1)
    weight = torch.rand(size, device=DEVICE)
    total, out = backend.add_rms_norm(x, residual, weight, EPS)
    cut_off = dtype == torch.bfloat16 and DEVICE.type == "cpu"
    torch.testing.assert_close(total, x + residual, rtol=2**-7 if cut_off else 0, atol=0)
    exact = total.double()
    assert_close(out, exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPS) * weight.double())
    assert_untouched(outputs)


def test_a_row_s_norm_does_not_depend_on_its_neighbours():
    x, weight = in_poison(11, 2, 40), torch.rand(40, device=DEVICE)
    assert torch.equal(backend.rms_norm(x, weight, EPS)[3:4], backend.rms_norm(x[3:4], weight, EPS))


@pytest.mark.parametrize("size", [1, 64, 128, 576, 4096, 8192, 16384, 100_000])
def test_a_norm_s_launch_covers_its_row(size):
    rows, padded, num_warps = norm_launch(size)
    assert padded >= size
    assert rows * padded >= 1024
    assert num_warps in {1, 2, 4, 8, 16}


@overflowing
@few
@given(
    rows=st.integers(1, 5),
    width=st.sampled_from([1, 1023, 1024, 1025, 2560]) | st.integers(1, 300),
    activation=st.sampled_from(["silu", "gelu", "gelu_tanh"]),
)
def test_any_gated(outputs, rows, width, activation):
    outputs.clear()
    gate_up = in_poison(rows, 2 * width, spread=3)
    out = backend.gated(gate_up, activation)
    assert out.shape == (rows, width)
    expected = PlainVerbs().gated(gate_up.double(), activation)
    torch.testing.assert_close(out.double(), expected, rtol=1e-5, atol=1e-5)
    assert_untouched(outputs)


@dtypes
@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
@overflowing
def test_gated_in_every_precision_and_far_from_zero(dtype, activation):
    """The exponential over- and underflows on the way, and the result is what it tends to."""
    gate_up = in_poison(3, 400, dtype=dtype, spread=60)
    assert_close(backend.gated(gate_up, activation), PlainVerbs().gated(gate_up.double(), activation))


def test_what_is_no_number_stays_none():
    """A sequence whose numbers broke must be found by its logits; its neighbours' are whole."""
    x = torch.randn(3, 64, device=DEVICE)
    x[1, 5] = torch.nan
    weight = torch.ones(64, device=DEVICE)
    for out in (*backend.add_rms_norm(x, torch.zeros_like(x), weight, EPS), backend.gated(x, "silu")):
        assert out[1].isnan().any()
        assert not out[::2].isnan().any()


def test_nothing_to_do_is_nothing_done():
    assert backend.rms_norm(torch.empty(0, 2, 16, device=DEVICE), torch.ones(16, device=DEVICE), EPS).shape == (
        0,
        2,
        16,
    )
    assert backend.gated(torch.empty(0, 32, device=DEVICE), "gelu").shape == (0, 16)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: backend.rms_norm(x, torch.ones(15), EPS), r"weight is \(15,\); expected \(16,\)"),
        (lambda x: backend.rms_norm(x[0], torch.ones(16), EPS), r"x is \(16,\); expected \[T, size\]"),
        (lambda x: backend.add_rms_norm(x, x[:1], torch.ones(16), EPS), r"residual is \(1, 16\) in torch.float32"),
        (lambda x: backend.gated(x[:, :15], "silu"), r"gate_up is \(2, 15\); expected \[T, 2 I\]"),
        (lambda x: backend.gated(x, "relu"), "activation 'relu' is unknown; known are silu, gelu, gelu_tanh"),
    ],
)
def test_what_does_not_fit_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call(torch.ones(2, 16))

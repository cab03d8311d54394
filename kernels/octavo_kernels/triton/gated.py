"""`activation(gate) * up` in one pass over memory."""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

GATED_BLOCK: Final = 1024  # numbers of a row that a program takes: with four warps, 16 bytes a thread in 16 bits


@triton.jit
def gated_kernel(
    gate_up,
    out,
    stride,  # elements from one row of `gate_up` to the next
    WIDTH: tl.constexpr,  # of `out`; half of `gate_up`'s
    BLOCK: tl.constexpr,
    ACTIVATION: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    places = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = places < WIDTH
    gate = tl.load(gate_up + row * stride + places, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(gate_up + row * stride + WIDTH + places, mask=inside, other=0.0).to(tl.float32)
    result = activated(gate, ACTIVATION) * up
    tl.store(out + row * WIDTH + places, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def activated(x, ACTIVATION: tl.constexpr):
    """The activation in fp32. For a large negative x the exponential becomes infinite and the quotient 0, as it should.

    1 + tanh(u) is 2 / (1 + e^-2u), which does not cancel for negative u.
    """
    if ACTIVATION == "silu":
        return x / (1 + tl.exp(-x))
    elif ACTIVATION == "gelu":  # noqa: RET505  Triton compiles only the branch that is taken
        return 0.5 * x * (1 + tl.erf(x * 0.7071067811865476))
    else:
        tl.static_assert(ACTIVATION == "gelu_tanh")
        u = 0.7978845608028654 * (x + 0.044715 * x * x * x)
        return x / (1 + tl.exp(-2 * u))

"""RMSNorm, and a residual sum with the norm of it, in one pass over memory."""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

from typing import Final, NamedTuple

import triton
import triton.language as tl

_TILE: Final = 1024  # numbers that a program takes at least, so that short rows (single heads) share one
_PER_THREAD: Final = 16  # numbers: two loads of 16 bytes in 16 bits
_MOST_WARPS: Final = 16


class NormLaunch(NamedTuple):
    """How rows of one size are cut. By their size alone, so that a row's sum does not depend on how many there are."""

    rows: int  # per program
    padded: int
    num_warps: int


def norm_launch(size: int) -> NormLaunch:
    padded = triton.next_power_of_2(size)
    rows = max(1, _TILE // padded)
    return NormLaunch(rows, padded, min(_MOST_WARPS, rows * padded // (32 * _PER_THREAD)))


@triton.jit(do_not_specialize=["num_rows"])
def rms_norm_kernel(
    x,
    residual,
    weight,
    out,
    total,
    num_rows,
    x_stride,  # elements from one token to the next
    residual_stride,
    eps,
    HEADS: tl.constexpr,  # rows of a token, side by side
    SIZE: tl.constexpr,
    PADDED: tl.constexpr,
    ROWS: tl.constexpr,
    ADD: tl.constexpr,  # x + residual goes to `total` and is what is normed; else `residual` and `total` are not read
):
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    dims = tl.arange(0, PADDED)
    inside = dims < SIZE
    valid = (rows < num_rows)[:, None] & inside[None, :]
    tokens, heads = (rows // HEADS).to(tl.int64), rows % HEADS
    own = rows.to(tl.int64)[:, None] * SIZE + dims[None, :]
    values = tl.load(x + (tokens * x_stride + heads * SIZE)[:, None] + dims[None, :], mask=valid, other=0.0)
    values = values.to(tl.float32)
    if ADD:
        places = (tokens * residual_stride + heads * SIZE)[:, None] + dims[None, :]
        values += tl.load(residual + places, mask=valid, other=0.0).to(tl.float32)
        summed = values.to(total.dtype.element_ty)
        tl.store(total + own, summed, mask=valid)
        values = summed.to(tl.float32)  # the norm of what is kept, as if it had been read again
    scale = tl.rsqrt(tl.sum(values * values, 1) / SIZE + eps)
    weights = tl.load(weight + dims, mask=inside, other=0.0).to(tl.float32)
    result = values * scale[:, None] * weights[None, :]
    tl.store(out + own, result.to(out.dtype.element_ty), mask=valid)

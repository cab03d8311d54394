"""Caches in e4m3, by instructions that convert it, or by integer arithmetic on GPUs without them (before sm_89).

    e4m3    s eeee mmm                              bias 7
    fp32    s 0000eeee mmm00000000000000000000      bias 127: the same number times 2^-120

So a byte becomes the upper bits of an fp32 number and is multiplied by 2^120, which is exact, subnormal numbers too;
and the way back is a product with 2^-120 and a rounding to nearest, ties to even, at bit 20. Such caches come to the
kernels as bytes (uint8). What is read is the same to the bit either way.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def as_read(x, DTYPE: tl.constexpr):
    """What a cache holds, as numbers to compute with."""
    if x.dtype == tl.uint8:
        return decoded(x).to(DTYPE)
    else:  # noqa: RET505  Triton compiles only the branch that is taken
        return x.to(DTYPE)


@triton.jit
def as_stored(x, DTYPE: tl.constexpr, LARGEST: tl.constexpr):
    """`x` as a cache of DTYPE holds it, moved into [-LARGEST, LARGEST] where that is above 0; NaN stays NaN."""
    if LARGEST > 0:
        x = tl.minimum(x.to(tl.float32), LARGEST, propagate_nan=tl.PropagateNan.ALL)
        x = tl.maximum(x, -LARGEST, propagate_nan=tl.PropagateNan.ALL)
    if DTYPE == tl.uint8:  # noqa: SIM300  a constant of the kernel, not of Python
        return encoded(x)
    else:  # noqa: RET505  as above
        return x.to(DTYPE)


@triton.jit
def decoded(x):
    """Bytes in e4m3 as fp32."""
    bits = x.to(tl.int32)
    magnitude = bits & 0x7F
    number = ((magnitude << 20) | ((bits & 0x80) << 24)).to(tl.float32, bitcast=True)
    return tl.where(magnitude == 0x7F, float("nan"), number * 1.329227995784916e36)


@triton.jit
def encoded(x):
    """fp32 up to 448 as the bytes of the nearest numbers in e4m3."""
    bits = (x * 7.52316384526264e-37).to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    rounded = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20
    rounded = tl.where(x != x, 0x7F, rounded)  # noqa: PLR0124  NaN alone differs from itself
    return (rounded | ((bits >> 24) & 0x80)).to(tl.uint8)

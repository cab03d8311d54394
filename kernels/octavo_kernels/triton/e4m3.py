"""Caches in e4m3, by instructions that convert it, or by integer arithmetic on GPUs without them (before sm_89).

    e4m3    s eeee mmm                              bias 7
    fp32    s 0000eeee mmm00000000000000000000      bias 127: the same number times 2^-120

So a byte becomes the upper bits of an fp32 number and is multiplied by 2^120, which is exact, subnormal numbers too;
and the way back is a product with 2^-120 and a rounding to nearest, ties to even, at bit 20. Such caches come to the
kernels as bytes (uint8). What is read is the same to the bit either way. To fp16 the way is shorter: bias 15 and the
same order of bits, so that the number is times 2^-8, in 16 bits all along.

Products with e4m3 are of fp16, which holds each of its numbers and takes two of them in one instruction; bf16 is a way
of several, through fp32. Queries in bf16 have a wider range, so each row of them is moved by a power of two.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def as_read(x, DTYPE: tl.constexpr):
    """What a cache holds, as numbers to compute with."""
    if x.dtype == tl.uint8 and DTYPE == tl.float16:  # noqa: SIM300  a constant of the kernel, not of Python
        return decoded_halves(x)
    elif x.dtype == tl.uint8:  # noqa: RET505  Triton compiles only the branch that is taken
        return decoded(x).to(DTYPE)
    else:
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
def decoded_halves(x):
    """Bytes in e4m3 as fp16."""
    bits = x.to(tl.uint16)
    magnitude = bits & 0x7F
    number = ((magnitude << 7) | ((bits & 0x80) << 8)).to(tl.float16, bitcast=True)
    return tl.where(magnitude == 0x7F, float("nan"), number * 256.0)


@triton.jit
def as_halves(q, INTERP: tl.constexpr):
    """Rows of bf16 as fp16, each times the power of two that brings its largest number to 2^14 or next above; and what
    undoes that, fp32. What is 2^28 times smaller than its row's largest number loses bits.

    INTERP: they stay fp32, as which they come.
    """
    x = q.to(tl.float32)
    exponents = tl.max(x.to(tl.int32, bitcast=True) & 0x7F800000, 1)
    exponents = tl.minimum(tl.maximum(exponents, 28 << 23), 240 << 23)  # so that both factors are numbers
    moved = x * ((240 << 23) - exponents + (28 << 23)).to(tl.float32, bitcast=True)[:, None]
    undo = (exponents - (14 << 23)).to(tl.float32, bitcast=True)
    if INTERP:
        return moved, undo
    else:  # noqa: RET505  as above
        return moved.to(tl.float16), undo


@triton.jit
def encoded(x):
    """fp32 up to 448 as the bytes of the nearest numbers in e4m3."""
    bits = (x * 7.52316384526264e-37).to(tl.int32, bitcast=True)
    magnitude = bits & 0x7FFFFFFF
    rounded = (magnitude + 0x7FFFF + ((magnitude >> 20) & 1)) >> 20
    rounded = tl.where(x != x, 0x7F, rounded)  # noqa: PLR0124  NaN alone differs from itself
    return (rounded | ((bits >> 24) & 0x80)).to(tl.uint8)

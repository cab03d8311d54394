"""Caches in int8 with a bfloat16 scale for each row (octavo_kernels/int8.py has the layout and the rule).

Scales never meet the numbers that they belong to: a key's multiplies its scores, a value's the weights before their
product, and both products are of integers up to 127, which 16 bits hold exactly.

    scores[m, n] = q[m] . number[n]  x key scale[n]          out[m] = sum of (weight[m, n] x value scale[n]) number[n]

Scales are too narrow for an asynchronous copy, so that a load in the loop would be waited for there. The next tile's
are loaded one tile ahead, into registers.
"""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

import triton
import triton.language as tl

from octavo_kernels.triton.context import pieces_of


@triton.jit
def load_scales(
    key_cache,
    value_cache,
    pages,
    tile,
    kv_head,
    seq_len,
    NUM_KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SCALED: tl.constexpr,
):
    """A tile's scales of keys and of values, [BLOCK_N] each; 0 for positions that are not written. None where there are
    none.
    """
    if SCALED:
        PIECE: tl.constexpr = BLOCK_SIZE * (HEAD_DIM + 2) // 2
        first = pieces_of(pages, kv_head, NUM_KV_HEADS) * PIECE + (
            BLOCK_SIZE * HEAD_DIM // 2 + tile * BLOCK_N % BLOCK_SIZE
        )
        rows = tl.reshape(first[:, None] + tl.arange(0, min(BLOCK_SIZE, BLOCK_N))[None, :], [BLOCK_N])
        written = tile * BLOCK_N + tl.arange(0, BLOCK_N) < seq_len
        of_keys = key_cache.to(tl.pointer_type(tl.bfloat16), bitcast=True)
        of_values = value_cache.to(tl.pointer_type(tl.bfloat16), bitcast=True)
        return tl.load(of_keys + rows, mask=written, other=0.0), tl.load(of_values + rows, mask=written, other=0.0)
    else:  # noqa: RET505  Triton compiles only the branch that is taken
        return None, None


@triton.jit
def magnitude_bits(x):
    """The bits of |x| in fp32, as int32: in the order of the numbers, with infinity and then NaN above them all."""
    return x.to(tl.float32).to(tl.int32, bitcast=True) & 0x7FFFFFFF


@triton.jit
def scale_bits(largest):
    """Of a row's largest `magnitude_bits`, the bits of its scale in bfloat16: rounded by hand, since Triton's
    interpreter cuts off.
    """
    bits = tl.div_rn(largest.to(tl.float32, bitcast=True), 127.0).to(tl.int32, bitcast=True)
    rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
    return tl.where(largest < 0x7F800000, rounded, 0x7FC0)


@triton.jit
def as_int8(x, bits):
    """`x` in multiples of the scale of these bits. Adding 1.5 x 2^23 rounds to an integer, which the sum's bits hold
    beside that number's own.
    """
    scale = (bits << 16).to(tl.float32, bitcast=True)
    x = tl.where(scale > 0.0, x.to(tl.float32), 0.0)
    quotient = tl.div_rn(x, tl.where(scale > 0.0, scale, 1.0))
    number = (quotient + 12582912.0).to(tl.int32, bitcast=True) - 0x4B400000
    return tl.minimum(tl.maximum(number, -127), 127).to(tl.int8)

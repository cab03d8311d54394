"""Biases and penalties: the few logits of a step that they change, each by one thread, whatever row it is in."""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

ADJUST_BLOCK: Final = 256


@triton.jit(do_not_specialize=["count"])
def adjust_kernel(logits, places, biases, factors, taken, count, BLOCK: tl.constexpr):
    """`Changes` to `count` logits, none of which is named twice."""
    entries = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    valid = entries < count
    at = tl.load(places + entries, mask=valid, other=0)
    x = tl.load(logits + at, mask=valid, other=0.0) + tl.load(biases + entries, mask=valid, other=0.0)
    factor = tl.load(factors + entries, mask=valid, other=1.0)
    x = tl.where(x > 0, tl.div_rn(x, factor), x * factor)
    tl.store(logits + at, x - tl.load(taken + entries, mask=valid, other=0.0), mask=valid)

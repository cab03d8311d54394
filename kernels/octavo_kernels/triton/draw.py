"""Choose one token from each row of logits, filtered by min-p, top-k and top-p, without sorting them.

Each filter is a threshold (draws.py), and a threshold is found by search: three pivots in a pass over the row say in
which quarter it lies, by the number (top-k) or the weight (top-p) of the tokens above each. The idea to search where
others sort is FlashInfer's and Qrita's (arXiv 2602.01518); pivots here are bits of numbers, so that no row, however its
logits lie, takes more than sixteen passes, and most take half as many: one token between the bounds ends it.

    scaled logits     0 (the largest) … -0.7 … -3.1 … -inf (dropped)
    distances         0                                0x7f800000       their bits without the sign, as integers

A row is one program's: what it draws depends on no other row, and not on how many there are.
"""

# ruff: noqa: PLR0917  what a kernel works on has to be passed to it

from __future__ import annotations

from typing import Final

import triton
import triton.language as tl

DRAW_BLOCK: Final = 4096  # logits at a time: two loads of 16 bytes for each of 512 threads
DRAW_WARPS: Final = 16


@triton.jit
def draw_kernel(
    logits,
    temperatures,
    top_ps,
    floors,
    top_ks,
    keys,
    tokens,
    bests,
    row_stride,  # elements from one row of `logits` to the next
    size,  # of the vocabulary
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    own = logits + row.to(tl.int64) * row_stride
    best, token, broken = largest_of(own, size, BLOCK)
    temperature = tl.load(temperatures + row)
    if (temperature > 0) & (best > float("-inf")):
        floor = tl.load(floors + row)
        top_k = tl.load(top_ks + row).to(tl.int32)
        last = last_kept(own, size, best, temperature, floor, top_k, tl.load(top_ps + row), BLOCK)
        key = tl.load(keys + row).to(tl.uint64, bitcast=True)
        token = drawn_from(own, size, best, temperature, floor, last, key, BLOCK)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(bests + row, tl.where(broken > 0, float("nan"), best))


@triton.jit
def largest_of(own, size, BLOCK: tl.constexpr):
    """The largest logit, its first token, and how many are not numbers."""
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    at = tl.zeros([BLOCK], tl.int32)
    broken = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        places = start + tl.arange(0, BLOCK)
        x = tl.load(own + places, mask=places < size, other=float("-inf"))
        broken += (x != x).to(tl.int32)  # noqa: PLR0124  NaN alone differs from itself
        at = tl.where(x > largest, places, at)
        largest = tl.where(x > largest, x, largest)
    best = tl.max(largest, 0)
    return best, first_of(at, largest == best), tl.sum(broken, 0)


@triton.jit
def first_of(at, chosen):
    """The smallest of the tokens `at` that are `chosen`."""
    return tl.min(tl.where(chosen, at, 0x7FFFFFFF), 0)


@triton.jit
def last_kept(own, size, best, temperature, floor, top_k, top_p, BLOCK: tl.constexpr):
    """The largest distance that top-k and then top-p keep, or a larger one that keeps no token more."""
    dropped = tl.full([], 0x7F800000, tl.int32)
    last = dropped - 1
    limited = (top_k > 0) & (top_k < size)
    if limited:
        last = search(own, size, best, temperature, floor, dropped, top_k, True, BLOCK)
    if top_p < 1:
        weight = weight_of(own, size, best, temperature, floor, last, tl.where(limited, top_k, size), BLOCK)
        last = search(own, size, best, temperature, floor, last + 1, top_p * weight, False, BLOCK)
    return last


@triton.jit
def search(own, size, best, temperature, floor, bound, goal, COUNTED: tl.constexpr, BLOCK: tl.constexpr):
    """The largest distance below `bound` with less than `goal` nearer than it: tokens if COUNTED, else weight.

    Between `low`, which is kept, and `high`, which is not. Sums of the same numbers in the same order grow with what is
    summed even when they are rounded, so answers of one pass do not contradict those of another.
    """
    low = tl.full([], 0, tl.int32)
    high = bound
    before_low = tl.full([], 0, tl.int32)  # tokens that are nearer
    before_high = low + size
    while (high - low > 1) & (before_high - before_low > 1):
        second = low + (high - low) // 2
        first = low + (second - low) // 2
        third = second + (high - second) // 2
        count_1 = tl.zeros([BLOCK], tl.int32)
        count_2 = tl.zeros([BLOCK], tl.int32)
        count_3 = tl.zeros([BLOCK], tl.int32)
        sum_1 = tl.zeros([BLOCK], tl.float32)
        sum_2 = tl.zeros([BLOCK], tl.float32)
        sum_3 = tl.zeros([BLOCK], tl.float32)
        for start in range(0, size, BLOCK):
            scaled = load_scaled(own, start, size, best, temperature, floor, BLOCK)
            distances = distances_of(scaled)
            count_1 += (distances < first).to(tl.int32)
            count_2 += (distances < second).to(tl.int32)
            count_3 += (distances < third).to(tl.int32)
            if not COUNTED:
                weights = tl.exp(scaled)
                sum_1 += tl.where(distances < first, weights, 0.0)
                sum_2 += tl.where(distances < second, weights, 0.0)
                sum_3 += tl.where(distances < third, weights, 0.0)
        before_1 = tl.sum(count_1, 0)
        before_2 = tl.sum(count_2, 0)
        before_3 = tl.sum(count_3, 0)
        if COUNTED:
            keeps_1 = before_1 < goal
            keeps_2 = before_2 < goal
            keeps_3 = before_3 < goal
        else:
            keeps_1 = tl.sum(sum_1, 0) < goal
            keeps_2 = tl.sum(sum_2, 0) < goal
            keeps_3 = tl.sum(sum_3, 0) < goal
        before_high = between(keeps_1, keeps_2, keeps_3, before_1, before_2, before_3, before_high)
        before_low = between(keeps_1, keeps_2, keeps_3, before_low, before_1, before_2, before_3)
        new_high = between(keeps_1, keeps_2, keeps_3, first, second, third, high)
        low = between(keeps_1, keeps_2, keeps_3, low, first, second, third)
        high = new_high
    return high - 1


@triton.jit
def between(keeps_1, keeps_2, keeps_3, quarter_1, quarter_2, quarter_3, quarter_4):
    """What belongs to the quarter in which the pivots cease to be kept."""
    return tl.where(keeps_3, quarter_4, tl.where(keeps_2, quarter_3, tl.where(keeps_1, quarter_2, quarter_1)))


@triton.jit
def weight_of(own, size, best, temperature, floor, last, most, BLOCK: tl.constexpr):
    """The weight of the tokens up to the distance `last`; of those at its end that are equal only so many as make
    `most` tokens.
    """
    weight = tl.zeros([BLOCK], tl.float32)
    count = tl.zeros([BLOCK], tl.int32)
    farthest = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        scaled = load_scaled(own, start, size, best, temperature, floor, BLOCK)
        distances = distances_of(scaled)
        kept = distances <= last
        weight += tl.where(kept, tl.exp(scaled), 0.0)
        count += kept.to(tl.int32)
        farthest = tl.maximum(farthest, tl.where(kept, distances, 0))
    extra = tl.maximum(tl.sum(count, 0) - most, 0).to(tl.float32)
    return tl.sum(weight, 0) - extra * tl.exp(-tl.max(farthest, 0).to(tl.float32, bitcast=True))


@triton.jit
def drawn_from(own, size, best, temperature, floor, last, key, BLOCK: tl.constexpr):
    """The token whose logit and noise together are largest, of those up to the distance `last`."""
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    at = tl.zeros([BLOCK], tl.int32)
    for start in range(0, size, BLOCK):
        places = start + tl.arange(0, BLOCK)
        scaled = load_scaled(own, start, size, best, temperature, floor, BLOCK)
        noisy = tl.where(distances_of(scaled) <= last, scaled + gumbel(key, places), float("-inf"))
        at = tl.where(noisy > largest, places, at)
        largest = tl.maximum(largest, noisy)
    return first_of(at, largest == tl.max(largest, 0))


@triton.jit
def load_scaled(own, start, size, best, temperature, floor, BLOCK: tl.constexpr):
    """Logits below the largest by how many temperatures: 0 and less, minus infinity where min-p drops them."""
    places = start + tl.arange(0, BLOCK)
    x = tl.load(own + places, mask=places < size, other=float("-inf"))
    scaled = tl.where(x == best, 0.0, tl.div_rn(x - best, temperature))
    return tl.where(scaled < floor, float("-inf"), scaled)


@triton.jit
def distances_of(scaled):
    """How far numbers up to 0 lie below it, as integers in the same order."""
    return tl.abs(scaled).to(tl.int32, bitcast=True)


@triton.jit
def gumbel(key, tokens):
    """Noise of (key, token): noise.py's rule.

    The GPU's logarithm is exact to some absolute error, which near 1 is a large part of the result; there a series of
    it is taken: log(1 - u) = -2 artanh(u / (2 - u)), to 3e-10 for u below 1/4.
    """
    FIRST: tl.constexpr = 0xBF58476D1CE4E5B9
    SECOND: tl.constexpr = 0x94D049BB133111EB
    state = key ^ (tokens.to(tl.uint64) * FIRST)
    state = (state ^ (state >> 30)) * FIRST
    state = (state ^ (state >> 27)) * SECOND
    bits = ((state ^ (state >> 31)) >> 32).to(tl.uint32)
    uniform = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.9999999403953552)
    x = uniform / (2 - uniform)
    squared = x * x
    series = 2 * x * (1 + squared * (1 / 3 + squared * (1 / 5 + squared * (1 / 7 + squared * (1 / 9)))))
    return -tl.log(tl.where(uniform < 0.25, series, -tl.log(1 - uniform)))

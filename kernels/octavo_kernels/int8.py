"""Caches in int8 with a scale for each row: one token's key, or value, of one head.

    scale    the row's largest number / 127, in bfloat16
    number   x / scale, rounded to the nearest integer, ties to even

The tensor is int8 `[num_blocks, num_kv_heads, block_size, head_dim + 2]`. One head of one block is one piece of memory,
as in every cache, so that who copies blocks or counts bytes need not know; within the piece the numbers come first, so
that rows begin where loads of 16 bytes may:

    piece    number number … | number number … | …    scale scale …
             row 0           | row 1           | …    of row 0, 1, …       block_size (head_dim + 2) bytes

A scale has fp32's range, so no row is too large or too small for one. What rounding it costs is nothing: numbers are
rounded against the scale that is stored, of which none is more than 127.5. A row of zeros has scale 0. One that holds
infinity or NaN has scale NaN: it reads as NaN, and so spoils its own sequence as it does in 16 bits, and no other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.cache_dtype import INT8, cache_shape, head_dim_of

if TYPE_CHECKING:
    from torch import Tensor

MOST: Final = 127
SCALE_DTYPE: Final = torch.bfloat16


def quantised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows `[…, head_dim]` as int8 of the same shape and bfloat16 scales `[…]`."""
    x = x.float()
    largest = x.abs().amax(-1)
    scale = torch.where(largest.isfinite(), largest / MOST, torch.nan).to(SCALE_DTYPE)
    divisor = scale.float()[..., None]
    numbers = torch.where(divisor > 0, x / divisor, 0).round().clamp(-MOST, MOST)
    return numbers.to(INT8), scale


def numbers_of(cache: Tensor) -> Tensor:
    """The numbers of an int8 cache, `[num_blocks, num_kv_heads, block_size, head_dim]`, in its memory."""
    rows = (*cache.shape[:3], head_dim_of(cache))
    return cache.flatten(2)[..., : rows[2] * rows[3]].view(rows)


def scales_of(cache: Tensor) -> Tensor:
    """Its scales, bfloat16 `[num_blocks, num_kv_heads, block_size]`, in its memory."""
    return cache.flatten(2)[..., cache.shape[2] * head_dim_of(cache) :].view(SCALE_DTYPE)


def read(cache: Tensor) -> Tensor:
    """What an int8 cache stands for, fp32 `[num_blocks, num_kv_heads, block_size, head_dim]`."""
    return numbers_of(cache) * scales_of(cache).float()[..., None]


def packed(x: Tensor) -> Tensor:
    """An int8 cache of the rows `[num_blocks, num_kv_heads, block_size, head_dim]`."""
    num_blocks, num_kv_heads, block_size, head_dim = x.shape
    size = cache_shape(num_blocks, num_kv_heads, block_size, head_dim, INT8)
    cache = torch.empty(size, dtype=INT8, device=x.device)
    numbers_of(cache)[...], scales_of(cache)[...] = quantised(x)
    return cache

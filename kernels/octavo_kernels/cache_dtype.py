"""What keys and values are stored as: the model's own dtype, or eight bits (e4m3; int8 with a scale, int8.py).

    e4m3    1 sign, 4 exponent, 3 mantissa bits; up to 448, no infinity, one NaN    (Micikevicius et al., 2022)

There is no scale beside these numbers. Keys after rotation and values lie well within 448, and the format is a floating
one, so a scale would move the exponent and sharpen nothing; per-head scales would have to be calibrated or kept by
block. What does lie beyond is stored as 448, never as NaN, which would spoil its whole sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

FP8: Final = torch.float8_e4m3fn
INT8: Final = torch.int8
EIGHT_BITS: Final = (FP8, INT8)  # become other numbers before anything is computed with them
LARGEST: Final = 448.0
FP8_ARCHITECTURE: Final = 89  # the first GPU that converts e4m3 (L40S; compute capability 8.9)
LEAST_EIGHT_BIT_ARCHITECTURE: Final = 80  # the first that reads caches in eight bits, by integer arithmetic (A100)
_INT8_SCALE: Final = 2  # bytes


def to_cache(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in a cache's dtype, other than int8. NaN stays NaN."""
    return x.clamp(-LARGEST, LARGEST).to(dtype) if dtype == FP8 else x.to(dtype)


def scale_bytes_of(dtype: torch.dtype) -> int:
    """Bytes of the scale that each row of a cache has: one token's key, or value, of one head."""
    return _INT8_SCALE if dtype == INT8 else 0


def cache_shape(
    num_blocks: int, num_kv_heads: int, block_size: int, head_dim: int, dtype: torch.dtype
) -> tuple[int, int, int, int]:
    """Of a tensor that holds so many blocks of keys, or of values. In int8 each row is longer by its scale."""
    return num_blocks, num_kv_heads, block_size, head_dim + scale_bytes_of(dtype)


def head_dim_of(cache: Tensor) -> int:
    """Numbers of a row, which in int8 are fewer than the tensor's columns."""
    return cache.shape[3] - scale_bytes_of(cache.dtype)

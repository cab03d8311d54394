"""What keys and values are stored as: the model's own dtype, or eight bits (e4m3).

    e4m3    1 sign, 4 exponent, 3 mantissa bits; up to 448, no infinity, one NaN    (Micikevicius et al., 2022)

There is no scale beside the numbers. Keys after rotation and values lie well within 448, and the format is a floating
one, so a scale would move the exponent and sharpen nothing; per-head scales would have to be calibrated or kept by
block. What does lie beyond is stored as 448, never as NaN, which would spoil its whole sequence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from torch import Tensor

FP8: Final = torch.float8_e4m3fn
LARGEST: Final = 448.0
FP8_ARCHITECTURE: Final = 89  # the first GPU that converts e4m3 (L40S; compute capability 8.9)
LEAST_FP8_ARCHITECTURE: Final = 80  # the first on which integer arithmetic does (A100)


def to_cache(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in a cache's dtype. NaN stays NaN."""
    return x.clamp(-LARGEST, LARGEST).to(dtype) if dtype == FP8 else x.to(dtype)

"""Rotary frequencies, plain and stretched."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_runtime.model.spec import ModelInfo, RopeScaling


def rope_frequencies(info: ModelInfo, factors: Tensor | None = None) -> Tensor:
    """Radians per position for each pair of a head's dimensions, `[head_dim / 2]` fp32.

    `factors` are a checkpoint's own ready-made divisors (GGUF's rope_freqs), which take the place of `info`'s scaling.
    """
    exponents = torch.arange(0, info.head_dim, 2, dtype=torch.int64).float() / info.head_dim
    frequencies = 1.0 / (info.rope_theta**exponents)
    if factors is not None:
        return frequencies / factors
    if info.rope_scaling is None:
        return frequencies
    if info.rope_scaling.kind == "linear":
        return frequencies / info.rope_scaling.factor
    return _llama3(frequencies, info.rope_scaling)


def _llama3(frequencies: Tensor, scaling: RopeScaling) -> Tensor:
    """Waves too long for the trained context to show are stretched by `factor`, short ones are kept, a ramp between.

    Llama 3.1's reference code (meta-llama/llama-models, model.py, apply_scaling).
    """
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_positions / wavelengths  # full turns within the trained context
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor

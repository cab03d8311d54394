"""Rotary frequencies, plain and stretched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from octavo_runtime.model.spec import LinearScaling, Llama3Scaling, LongScaling, YarnScaling

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_runtime.model.spec import Rope


@dataclass(frozen=True, slots=True)
class RopeTable:
    frequencies: Tensor  # [dim / 2] fp32, radians per position
    amplitude: float = 1.0  # what cosines and sines are multiplied by


def rope_table(rope: Rope, max_len: int, factors: Tensor | None = None) -> RopeTable:
    """Radians per position for each pair of the rotated dimensions, for a model served up to `max_len` tokens.

    `factors` are a checkpoint's own ready-made divisors (GGUF's rope_freqs), which take the place of `rope`'s scaling.
    """
    exponents = torch.arange(0, rope.dim, 2, dtype=torch.int64).float() / rope.dim
    frequencies = 1.0 / (rope.theta**exponents)
    if factors is not None:
        return RopeTable(frequencies / factors)
    match rope.scaling:
        case None:
            return RopeTable(frequencies)
        case LinearScaling(factor):
            return RopeTable(frequencies / factor)
        case Llama3Scaling():
            return RopeTable(_llama3(frequencies, rope.scaling))
        case YarnScaling():
            return RopeTable(_yarn(frequencies, rope, rope.scaling), rope.scaling.amplitude)
        case LongScaling():
            return RopeTable(_long(rope, rope.scaling, exponents, max_len), rope.scaling.amplitude)


def _llama3(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Waves too long for the trained context to show are stretched by `factor`, short ones are kept, a ramp between.

    Llama 3.1's reference code (meta-llama/llama-models, model.py, apply_scaling).
    """
    wavelengths = 2 * math.pi / frequencies
    turns = scaling.original_max_positions / wavelengths  # full turns within the trained context
    kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = kept.clamp(0, 1)
    return kept * frequencies + (1 - kept) * frequencies / scaling.factor


def _yarn(frequencies: Tensor, rope: Rope, scaling: YarnScaling) -> Tensor:
    """A ramp over the dimensions, from those kept to those stretched (YaRN, section 3.2; jquesnelle/yarn)."""

    def dimension(turns: float) -> float:
        """The dimension that makes so many full turns within the trained context."""
        return rope.dim * math.log(scaling.original_max_positions / (turns * 2 * math.pi)) / (2 * math.log(rope.theta))

    first, last = dimension(scaling.beta_fast), dimension(scaling.beta_slow)
    if scaling.whole_dimensions:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rope.dim - 1)
    width = last - first or 0.001  # a step instead of a ramp
    stretched = ((torch.arange(rope.dim // 2).float() - first) / width).clamp(0, 1)
    return frequencies / scaling.factor * stretched + frequencies * (1 - stretched)


def _long(rope: Rope, scaling: LongScaling, exponents: Tensor, max_len: int) -> Tensor:
    """One set of divisors for all sequences, chosen by how long they may become.

    transformers chooses by the longest sequence of a batch at each step, which lets neighbours change each other's
    text and leaves keys in the cache that were rotated otherwise; the set for the served length is vLLM's choice too.
    """
    factors = scaling.long_factors if max_len > scaling.original_max_positions else scaling.short_factors
    return 1.0 / (torch.tensor(factors) * rope.theta**exponents)

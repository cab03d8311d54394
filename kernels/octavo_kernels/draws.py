"""Choosing tokens: what the verbs `adjust` and `draw` take, and what they do, in plain torch.

    logits [R, V]  ──adjust──>  biases and penalties of the few tokens that have any
                   ──draw────>  temperature, min-p, top-k, top-p, one token of what is left

A threshold is the whole of each filter, and no order is needed: with s(v) the weight of all tokens above a logit v,
top-k keeps v while fewer than k tokens are above it, and top-p while s(v) is less than top_p of what top-k has left.
Equal logits are kept or dropped together. This file sorts, which is the shortest way to say it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from octavo_kernels.noise import gumbel


class Changes(NamedTuple):
    """What is done to N logits, each of them named once; in this order."""

    places: Tensor  # [N] int64, row * vocab_size + token
    biases: Tensor  # [N] fp32, added; minus infinity: not to be chosen
    factors: Tensor  # [N] fp32, divides what is positive and multiplies the rest; 1: nothing (Keskar et al., 2019)
    taken: Tensor  # [N] fp32, taken away


class Draws(NamedTuple):
    """How R rows of logits are chosen from, on their device."""

    temperature: Tensor  # [R] fp32; 0: the largest logit, whatever else is asked
    top_p: Tensor  # [R] fp32; 1: all
    floor: Tensor  # [R] fp32, the logarithm of min-p: a probability as a share of the largest one; minus infinity: all
    top_k: Tensor  # [R] int64; 0: all
    key: Tensor  # [R] int64, of the noise: a hash of the request's seed and the token's position


def adjust(logits: Tensor, changes: Changes) -> None:
    """What `KernelBackend.adjust` says."""
    flat = logits.view(-1)
    changed = flat[changes.places] + changes.biases
    penalised = torch.where(changed > 0, changed / changes.factors, changed * changes.factors)
    flat[changes.places] = penalised - changes.taken


def draw(logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """What `KernelBackend.draw` says."""
    best, tokens = logits.max(dim=-1)
    drawn = draws.temperature > 0
    scaled = (logits - best[:, None]) / torch.where(drawn, draws.temperature, 1.0)[:, None]
    scaled = scaled.masked_fill(scaled < draws.floor[:, None], -torch.inf)
    kept = scaled.masked_fill(scaled < _least(scaled, draws), -torch.inf)
    noisy = kept + gumbel(draws.key, logits.shape[1])
    return torch.where(drawn, noisy.argmax(dim=-1), tokens), best


def _least(scaled: Tensor, draws: Draws) -> Tensor:
    """The smallest of the scaled logits that top-k and then top-p let through, `[R, 1]`."""
    ordered = scaled.sort(dim=-1, descending=True).values
    ranks = torch.arange(ordered.shape[1], device=ordered.device)
    dropped = (ranks >= draws.top_k[:, None]) & (draws.top_k > 0)[:, None]
    weights = ordered.masked_fill(dropped, -torch.inf).double().exp()
    above = weights.cumsum(-1) - weights
    stays = (above < draws.top_p[:, None] * weights.sum(-1, keepdim=True)) & ~dropped
    stays |= (draws.top_p >= 1)[:, None] & ~dropped
    return ordered.gather(-1, stays.sum(-1, keepdim=True).clamp(min=1) - 1)

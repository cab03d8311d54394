"""Logits changed as a request asks, before anything is drawn from them.

The order is vLLM's: only the allowed tokens, no forbidden ones and none that would complete a bad word, then biases,
then penalties. Only rows that ask pay, and one pass serves them all: no sort, no loop over the vocabulary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from octavo_runtime.runner.transfer import on_device

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from torch import Tensor

    from octavo_runtime.core.batch import SamplingParams, SamplingRow, Shaping


def shape(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """Change logits `[len(rows), vocab_size]` fp32 in place. What must not be chosen becomes minus infinity."""
    shaped = [(index, row.shaping) for index, row in enumerate(rows) if row.shaping is not None]
    allow(logits, rows)
    _forbid(logits, rows)
    _add_biases(logits, shaped)
    _penalise(logits, [(index, shaping) for index, shaping in shaped if _has_penalty(shaping.params)])


def allow(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    """The first step of `shape`: only the allowed tokens, of rows that name some."""
    for index, row in enumerate(rows):
        if row.shaping is not None and row.shaping.params.allowed_token_ids is not None:
            _allow(logits[index], row.shaping.params.allowed_token_ids)


def _allow(row: Tensor, tokens: Sequence[int]) -> None:
    kept = torch.full_like(row, -torch.inf)
    chosen = on_device(tokens, row.device)
    kept[chosen] = row[chosen]
    row.copy_(kept)


def _forbid(logits: Tensor, rows: Sequence[SamplingRow]) -> None:
    pairs = [(index, token) for index, row in enumerate(rows) for token in row.forbidden]
    for index, row in enumerate(rows):
        if row.shaping is not None and row.shaping.params.bad_words:
            pairs += [(index, token) for token in completions(row.shaping)]
    if pairs:
        where = on_device(pairs, logits.device)
        logits[where[:, 0], where[:, 1]] = -torch.inf


def completions(shaping: Shaping) -> Iterable[int]:
    """The tokens that would complete a bad word in the output; what stands in the prompt does not begin one."""
    tokens = shaping.tokens
    for *beginning, last in shaping.params.bad_words:
        start = len(tokens) - len(beginning)
        if start >= shaping.num_prompt_tokens and tokens[start:] == beginning:
            yield last


def _add_biases(logits: Tensor, shaped: Sequence[tuple[int, Shaping]]) -> None:
    biases = [(index, token, bias) for index, shaping in shaped for token, bias in shaping.params.logit_bias]
    if biases:
        indices, tokens, values = zip(*biases, strict=True)
        where = on_device([indices, tokens], logits.device)
        logits[where[0], where[1]] += on_device(values, logits.device)


def _has_penalty(params: SamplingParams) -> bool:
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


def _penalise(logits: Tensor, shaped: Sequence[tuple[int, Shaping]]) -> None:
    """Repetition counts prompt and output (Keskar et al., 2019), presence and frequency the output alone (OpenAI)."""
    if not shaped:
        return
    params = [shaping.params for _, shaping in shaped]
    index = on_device([row for row, _ in shaped], logits.device)
    vocab_size, device = logits.shape[1], logits.device
    outputs = _counts([shaping.tokens[shaping.num_prompt_tokens :] for _, shaping in shaped], vocab_size, device)
    picked = logits[index]
    if any(one.repetition_penalty != 1 for one in params):
        prompts = _counts([shaping.tokens[: shaping.num_prompt_tokens] for _, shaping in shaped], vocab_size, device)
        factor = _column([one.repetition_penalty for one in params], device)
        less_likely = torch.where(picked > 0, picked / factor, picked * factor)
        picked = torch.where((outputs > 0) | (prompts > 0), less_likely, picked)
    picked -= _column([one.frequency_penalty for one in params], device) * outputs
    picked -= _column([one.presence_penalty for one in params], device) * (outputs > 0)
    logits[index] = picked


def _counts(sequences: Sequence[Sequence[int]], vocab_size: int, device: torch.device) -> Tensor:
    """How often each token is in each sequence, `[len(sequences), vocab_size]` fp32."""
    flat = [row * vocab_size + token for row, tokens in enumerate(sequences) for token in tokens]
    where = on_device(flat, device, torch.int64)
    counts = torch.zeros(len(sequences) * vocab_size, device=device)
    return counts.index_add_(0, where, torch.ones(len(flat), device=device)).view(len(sequences), vocab_size)


def _column(values: Sequence[float], device: torch.device) -> Tensor:
    return on_device(values, device, torch.float32)[:, None]

"""Sampling rows as what a kernel backend's verbs `adjust` and `draw` take: two copies to the device for each."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING

import torch

from octavo_kernels.draws import Changes, Draws
from octavo_runtime.runner.counter import noise_key
from octavo_runtime.runner.shaping import completions
from octavo_runtime.runner.transfer import on_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from octavo_runtime.core.batch import SamplingRow, Shaping


def draws_of(rows: Sequence[SamplingRow], device: torch.device) -> Draws:
    numbers = [[row.temperature for row in rows], [row.top_p for row in rows], [_floor(row) for row in rows]]
    integers = [[row.top_k for row in rows], [noise_key(row.seed, row.position) for row in rows]]
    temperature, top_p, floor = on_device(numbers, device, torch.float32).unbind()
    top_k, key = on_device(integers, device, torch.int64).unbind()
    return Draws(temperature, top_p, floor, top_k, key)


def changes_of(rows: Sequence[SamplingRow], vocab_size: int, device: torch.device) -> Changes | None:
    """Forbidden tokens, bad words, biases and penalties (shaping.py says what they are); None when there are none."""
    entries = [
        (index * vocab_size + token, *change) for index, row in enumerate(rows) for token, change in _changes(row)
    ]
    if not entries:
        return None
    places, *numbers = zip(*entries, strict=True)
    return Changes(on_device(places, device, torch.int64), *on_device(numbers, device, torch.float32).unbind())


def _floor(row: SamplingRow) -> float:
    least = row.shaping.params.min_p if row.shaping is not None else 0.0
    return math.log(least) if least > 0 else -math.inf


def _changes(row: SamplingRow) -> Iterator[tuple[int, tuple[float, float, float]]]:
    """Each token that is not as it was, once: its bias, repetition's factor, and what the other penalties take."""
    if row.shaping is None:
        yield from ((token, (-math.inf, 1.0, 0.0)) for token in row.forbidden)
        return
    params = row.shaping.params
    biases = dict(params.logit_bias) | dict.fromkeys((*row.forbidden, *completions(row.shaping)), -math.inf)
    repeated = set(row.shaping.tokens) if params.repetition_penalty != 1 else set[int]()
    counts = _output_counts(row.shaping)
    for token in biases.keys() | repeated | counts.keys():
        taken = params.frequency_penalty * counts[token] + params.presence_penalty * (counts[token] > 0)
        yield token, (biases.get(token, 0.0), params.repetition_penalty if token in repeated else 1.0, taken)


def _output_counts(shaping: Shaping) -> Counter[int]:
    """How often each token is in the output, where that matters."""
    counted = shaping.params.presence_penalty != 0 or shaping.params.frequency_penalty != 0
    return Counter(shaping.tokens[shaping.num_prompt_tokens :] if counted else ())

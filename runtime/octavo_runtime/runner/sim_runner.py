"""A runner without a model: deterministic tokens, chosen step times, no torch.

Its KV cache holds, in place of keys and values, a running hash of the sequence:

    slot of position p  =  (p, mix(hash in the slot of position p - 1, token p))

A token is a function of the hash at the last position, so it depends on the whole context, read through the block table
as a real model reads it. A wrong slot, a block given away too early or a stale block changes the tokens or is caught
by the position check, and `continuation` tells which tokens are right.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from octavo_runtime.core.batch import StepResult, TokenLogprobs
from octavo_runtime.runner.counter import mix

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from octavo_runtime.core.batch import FlatBatch, SamplingRow
    from octavo_runtime.runner.base import Launched

_EMPTY = 0x9E3779B97F4A7C15  # the hash of no tokens


def _choose(context: int, row: SamplingRow, vocab_size: int) -> int:
    """The token for a context hash: seeded by (seed, position) when the temperature is not 0, never a forbidden id."""
    if row.temperature > 0:
        context = mix(mix(context, row.seed), row.position)
    token = context % vocab_size
    while token in row.forbidden:
        token = (token + 1) % vocab_size
    return token


def _rate(context: int, token: int, top: int, vocab_size: int) -> TokenLogprobs:
    """As if the token after a context were its hash with probability 1/2, the id after that with 1/4, and so on."""
    best = [((context + rank) % vocab_size, -(rank + 1) * math.log(2)) for rank in range(top)]
    rank = (token - context) % vocab_size + 1
    return TokenLogprobs(token, -rank * math.log(2), rank, best)


def continuation(prompt: Sequence[int], rows: Sequence[SamplingRow], vocab_size: int) -> list[int]:
    """The tokens that a correct engine on a `SimRunner` yields after `prompt`, one for each of `rows`."""
    context = _EMPTY
    for token in prompt:
        context = mix(context, token)
    tokens = []
    for row in rows:
        tokens.append(_choose(context, row, vocab_size))
        context = mix(context, tokens[-1])
    return tokens


@dataclass(frozen=True, slots=True)
class StepTime:
    """How long a step takes, in seconds. `runtime/bench/sim_profile.py` fits it to measurements."""

    base: float = 0.0  # for each step: reading the weights, starting the kernels
    per_prefill_token: float = 0.0  # for each token of a sequence that computes several
    per_decode: float = 0.0  # for each sequence that computes one
    per_kv_token: float = 0.0  # for each token of context that a sequence reads

    def seconds(self, batch: FlatBatch) -> float:
        num_sequences = len(batch.seq_lens)
        num_tokens = len(batch.token_ids)
        decodes = num_sequences if num_tokens == num_sequences else _count_decodes(batch)
        return self.of(num_tokens - decodes, decodes, sum(batch.seq_lens))

    def of(self, prefill_tokens: int, decodes: int, kv_tokens: int) -> float:
        """Of a step by its numbers, for those who have no batch: a fleet's replay."""
        return (
            self.base
            + self.per_prefill_token * prefill_tokens
            + self.per_decode * decodes
            + self.per_kv_token * kv_tokens
        )

    @classmethod
    def read(cls, path: Path) -> StepTime:
        """From a JSON object with these fields. Raises `OSError`, and `ValueError` naming what is wrong."""
        values = json.loads(path.read_text())
        names = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or values.keys() != names:
            raise ValueError(f"{path}: must be an object with {', '.join(sorted(names))}")
        for name, value in values.items():
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{path}: {name} is {value!r}; it must be a number of seconds, at least 0")
        return cls(**values)


def _count_decodes(batch: FlatBatch) -> int:
    return sum(end - start == 1 for start, end in pairwise(batch.query_start_loc))


def _put_in_place(batch: FlatBatch, sampled: list[int] | None) -> FlatBatch:
    """The batch with the tokens that the step before sampled."""
    if sampled is None:
        raise RuntimeError("the step whose tokens this one continues has failed")
    token_ids = list(batch.token_ids)
    for row, source in zip(batch.carried_rows, batch.carried_from, strict=True):
        token_ids[row] = sampled[source]
    return replace(batch, token_ids=token_ids, carried_rows=[], carried_from=[])


@dataclass(frozen=True, slots=True)
class _SimulatedStep:
    result: StepResult
    ends_at: float
    clock: Callable[[], float]
    sleep: Callable[[float], None]

    def wait(self) -> StepResult:
        left = self.ends_at - self.clock()
        if left > 0:
            self.sleep(left)
        return self.result


class SimRunner:
    """Implements `Runner`. `sleep` is called with the time that a step takes, or has left; give a virtual clock and its
    `sleep` to simulate faster.

    A launched step's tokens are worked out at once and kept back until the step's time is over, which begins when the
    step launched before it ends: a device that works beside the host.
    """

    computes_apart = False

    def __init__(
        self,
        num_blocks: int,
        block_size: int,
        vocab_size: int,
        step_time: StepTime | None = None,
        sleep: Callable[[float], None] = time.sleep,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.step_tokens = 2048
        self.vocab_size = vocab_size
        self._step_time = step_time or StepTime()
        self._sleep = sleep
        self._clock = clock
        self._busy_until = 0.0  # on the clock
        self._sampled: list[int] | None = None  # by the last step; None: it raised
        self._slots: dict[int, tuple[int, int]] = {}  # slot -> (position, hash of the tokens up to it)

    def execute(self, batch: FlatBatch) -> StepResult:
        """Write this step's tokens into the cache and choose one token per sampling row.

        Raises `AssertionError` when the batch contradicts itself or the cache: an engine's bug, never a request's.
        """
        seconds = self._step_time.seconds(batch)
        if seconds > 0:
            self._sleep(seconds)
        return self.compute(batch)

    def launch(self, batch: FlatBatch) -> Launched:
        result = self.compute(batch)
        self._busy_until = max(self._busy_until, self._clock()) + self._step_time.seconds(batch)
        return _SimulatedStep(result, self._busy_until, self._clock, self._sleep)

    def compute(self, batch: FlatBatch) -> StepResult:
        """What `execute` does, without the time that it takes."""
        sampled, self._sampled = self._sampled, None
        if batch.carried_rows:
            batch = _put_in_place(batch, sampled)
        contexts: list[int] = []
        for sequence, (first, end) in enumerate(pairwise(batch.query_start_loc)):
            contexts += self._compute_sequence(batch, sequence, first, end)
        tokens = [
            _choose(contexts[row], sampling, self.vocab_size)
            for row, sampling in zip(batch.sample_rows, batch.sampling, strict=True)
        ]
        scores = [_rate(contexts[score.row], score.token, score.top, self.vocab_size) for score in batch.scoring]
        self._sampled = tokens
        return StepResult(tokens, self._logprobs(batch, contexts, tokens), scores)

    def _logprobs(self, batch: FlatBatch, contexts: list[int], tokens: list[int]) -> list[TokenLogprobs | None] | None:
        wanted = [row.shaping.params.logprobs if row.shaping is not None else None for row in batch.sampling]
        if all(top is None for top in wanted):
            return None
        return [
            None if top is None else _rate(contexts[row], token, top, self.vocab_size)
            for row, token, top in zip(batch.sample_rows, tokens, wanted, strict=True)
        ]

    def _compute_sequence(self, batch: FlatBatch, sequence: int, first: int, end: int) -> list[int]:
        """Extend one sequence by its tokens `[first, end)`; return the hash of the context up to each of them."""
        table = batch.block_tables[sequence]
        start = batch.seq_lens[sequence] - (end - first)
        context = self._read(table, start - 1)
        contexts = []
        for row, position in zip(range(first, end), range(start, batch.seq_lens[sequence]), strict=True):
            slot = self._slot(table, position)
            assert batch.positions[row] == position, f"row {row}: position {batch.positions[row]}, expected {position}"
            assert batch.slot_mapping[row] == slot, f"row {row}: slot {batch.slot_mapping[row]}, expected {slot}"
            context = mix(context, batch.token_ids[row])
            self._slots[slot] = (position, context)
            contexts.append(context)
        return contexts

    def _read(self, table: list[int], position: int) -> int:
        if position < 0:
            return _EMPTY
        found, context = self._slots[self._slot(table, position)]
        assert found == position, f"stale block: position {found} where {position} belongs"
        return context

    def _slot(self, table: list[int], position: int) -> int:
        block = table[position // self.block_size]
        assert 0 <= block < self.num_blocks, f"block {block} of {self.num_blocks}"
        return block * self.block_size + position % self.block_size

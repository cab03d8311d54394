"""How many blocks the KV cache gets: of the memory that is free, and on a GPU of what its largest step leaves."""

from __future__ import annotations

import logging
from itertools import accumulate
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

import torch

from octavo_runtime.core.batch import FlatBatch, SamplingParams, SamplingRow, ScoreRow, Shaping
from octavo_runtime.errors import OutOfMemory

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.runner.plan_file import PlanFile

logger = logging.getLogger(__name__)

_SCORED: Final = 64  # rows of logits that a prompt's scores take at a time (torch_runner.py)
_TOP: Final = 20
# All that makes sampling take memory.
_GREEDIEST: Final = SamplingParams(
    max_tokens=1, top_p=0.9, min_p=0.01, repetition_penalty=1.1, presence_penalty=0.1, frequency_penalty=0.1,
    logit_bias=((0, 1.0),), logprobs=_TOP,
)  # fmt: skip

Built = TypeVar("Built")


class Stepper(Protocol):
    """A runner, as far as it is needed here."""

    def execute(self, batch: FlatBatch) -> object: ...


class Gauge(Protocol):
    """A device's memory."""

    def free(self) -> int:
        """Bytes that may still be allocated."""
        ...

    def peak_of(self, step: Callable[[], object]) -> int:
        """Bytes that `step` takes at its worst, beyond what is allocated before it."""
        ...


def count_blocks(config: ServeConfig, info: ModelInfo, *, block_bytes: int, free: int, share: float) -> int:
    """Blocks that the KV cache gets: `kv_cache_memory`, bytes or a share of the `free` ones, if set, else `share` of
    these, but never more than `max_num_seqs` sequences of full length could fill.

    Raises `OutOfMemory` when the memory asked for is not there, or holds less than one sequence of full length that
    was asked for by name.
    """
    longest = config.max_model_len or info.max_positions
    per_sequence = -(-longest // config.block_size)
    asked = config.kv_cache_memory or share
    memory = int(free * asked) if isinstance(asked, float) else asked
    if memory > free:
        raise OutOfMemory(f"kv_cache_memory is {memory >> 20} MiB; {free >> 20} MiB are free after loading the model")
    num_blocks = min(memory // block_bytes, per_sequence * config.max_num_seqs)
    needed = per_sequence if config.max_model_len is not None else 1
    if num_blocks < needed:
        raise OutOfMemory(
            f"a KV cache of {memory >> 20} MiB holds {num_blocks * config.block_size} tokens; one sequence of "
            f"{longest} needs {needed * block_bytes >> 20} MiB: raise kv_cache_memory or lower max_model_len"
        )
    return num_blocks


def largest_batch(config: ServeConfig, info: ModelInfo, *, step_tokens: int) -> FlatBatch:
    """The step that takes most memory: as many tokens, in as many sequences, and as many rows of logits with all that
    may be asked of them as there can be. `step_tokens` is the device's budget, where the user sets none.

    Its block tables are blocks 0, 1, 2, …, each sequence's own.
    """
    longest = min(config.max_model_len or info.max_positions, info.max_positions)
    budget = config.max_num_batched_tokens or max(step_tokens, config.max_num_seqs)
    tokens = min(budget, config.max_num_seqs * longest)
    count = min(config.max_num_seqs, tokens)
    lengths = [tokens // count + (row < tokens % count) for row in range(count)]
    sampled = [min(length, 1 + config.speculative_ngram) for length in lengths]
    blocks = [-(-length // config.block_size) for length in lengths]
    ends, block_ends = list(accumulate(lengths)), list(accumulate(blocks))
    tables = [list(range(end - used, end)) for end, used in zip(block_ends, blocks, strict=True)]
    return FlatBatch(
        token_ids=[0] * tokens,
        positions=[position for length in lengths for position in range(length)],
        slot_mapping=[
            table[0] * config.block_size + position
            for table, length in zip(tables, lengths, strict=True)
            for position in range(length)
        ],
        query_start_loc=[0, *ends],
        seq_lens=lengths,
        block_tables=tables,
        sample_rows=[row for end, rows in zip(ends, sampled, strict=True) for row in range(end - rows, end)],
        sampling=[_greediest_row(length) for length, rows in zip(lengths, sampled, strict=True) for _ in range(rows)],
        scoring=[ScoreRow(row, 0, _TOP) for row in range(min(_SCORED, tokens))],
    )


def _greediest_row(position: int) -> SamplingRow:
    shaping = Shaping(_GREEDIEST, tokens=[0], num_prompt_tokens=0)
    return SamplingRow(temperature=1.0, top_p=0.9, top_k=0, seed=0, position=position, shaping=shaping)


def measure_free(gauge: Gauge, make: Callable[[int], Stepper], batch: FlatBatch) -> int:
    """Bytes free on the device beside what a step of `batch`, a `largest_batch`, takes at its worst. `make` gives a
    runner with so many blocks.
    """
    taken = _taken(gauge, make, batch)
    return max(0, gauge.free() - taken)


def _taken(gauge: Gauge, make: Callable[[int], Stepper], batch: FlatBatch) -> int:
    runner = make(batch.block_tables[-1][-1] + 1)
    return gauge.peak_of(lambda: runner.execute(batch))  # the runner and its cache go with this function


def build_measured(
    gauge: Gauge, plan: PlanFile | None, measure: Callable[[], int], build: Callable[[int], Built]
) -> Built:
    """`build` with the bytes that a KV cache may take of: by the saved plan if there is one of use, else measured.

    A plan that promises more than there is, is discarded.
    """
    before = gauge.free()
    planned = plan.load(before) if plan else None
    if plan and planned is not None:
        try:
            return build(planned)
        except torch.OutOfMemoryError as error:
            logger.warning("the saved KV plan promised too much, measuring anew: %s", error)
            plan.discard()
    free = measure()
    if plan:
        plan.save(before, free)
    return build(free)

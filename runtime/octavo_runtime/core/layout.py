"""A plan, laid out flat: one row per token, in the order of the plan's chunks.

    chunks            A: [3, 4)   B: [0, 3)      block_size 2, A's blocks [5, 1], B's blocks [4, 0]
    token_ids         a3          b0 b1 b2
    positions          3           0  1  2
    slot_mapping       3           8  9  0       block * block_size + position % block_size
    query_start_loc  [ 0,          1,        4 ]
    seq_lens           4           3

T tokens in S sequences; see `FlatBatch` for what each list is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.core.batch import BatchPlan, FlatBatch, SamplingRow, Shaping

if TYPE_CHECKING:
    from collections.abc import Mapping

    from octavo_runtime.core.batch import ScheduledChunk
    from octavo_runtime.core.sequence import Sequence

_NOTHING: frozenset[int] = frozenset()


def flatten(plan: BatchPlan, sequences: Mapping[int, Sequence], block_size: int) -> FlatBatch:
    """Lay out `plan` over `sequences`, by id."""
    batch = FlatBatch([], [], [], [0], [], [], [], [])
    for chunk in plan.chunks:
        sequence = sequences[chunk.seq_id]
        if chunk.length == 1:
            _append_token(batch, sequence, chunk.start, block_size)
        else:
            _append_chunk(batch, sequence, chunk, block_size)
        batch.query_start_loc.append(len(batch.token_ids))
        batch.seq_lens.append(chunk.start + chunk.length)
        batch.block_tables.append(sequence.block_table)
        if chunk.samples:
            batch.sample_rows.append(len(batch.token_ids) - 1)
            batch.sampling.append(_sampling_row(sequence))
    return batch


def _append_token(batch: FlatBatch, sequence: Sequence, position: int, block_size: int) -> None:
    batch.token_ids.append(sequence.token_ids[position])
    batch.positions.append(position)
    block = sequence.block_table[position // block_size]
    batch.slot_mapping.append(block * block_size + position % block_size)


def _append_chunk(batch: FlatBatch, sequence: Sequence, chunk: ScheduledChunk, block_size: int) -> None:
    position, end = chunk.start, chunk.start + chunk.length
    batch.token_ids.extend(sequence.token_ids[position:end])
    batch.positions.extend(range(position, end))
    while position < end:  # one block at a time
        first = sequence.block_table[position // block_size] * block_size + position % block_size
        count = min(block_size - position % block_size, end - position)
        batch.slot_mapping.extend(range(first, first + count))
        position += count


def _sampling_row(sequence: Sequence) -> SamplingRow:
    params = sequence.params
    position = len(sequence.token_ids)
    forbidden = params.stop_token_ids if position < sequence.min_num_tokens else _NOTHING
    shaping = Shaping(params, sequence.token_ids, sequence.num_prompt_tokens) if params.shapes_logits else None
    return SamplingRow(params.temperature, params.top_p, params.top_k, params.seed, position, forbidden, shaping)

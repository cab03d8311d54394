"""A plan, laid out flat: one row per token, decodes first, then the plan's chunks.

    plan              A: [3, 4)   B: [0, 3)      block_size 2, A's blocks [5, 1], B's blocks [4, 0]
    token_ids         a3          b0 b1 b2
    positions          3           0  1  2
    slot_mapping       3           8  9  0       block * block_size + position % block_size
    query_start_loc  [ 0,          1,        4 ]
    seq_lens           4           3

T tokens in S sequences; see `FlatBatch` for what each list is. Decodes are laid out column by column, since a step may
have hundreds of them; whatever else there is, one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from octavo_runtime.core.ahead import carry
from octavo_runtime.core.batch import BatchPlan, FlatBatch, ScoreRow

if TYPE_CHECKING:
    from octavo_runtime.core.batch import SamplingRow, ScheduledChunk
    from octavo_runtime.core.sequence import Sequence


_AWAITED: Final = 0  # in the place of a token that the step before will yield


def flatten(plan: BatchPlan, block_size: int, before: BatchPlan | None = None) -> FlatBatch:
    """Lay out `plan`; `before` is the plan of the step that is under way, if one is."""
    batch = _flatten_decodes(plan.decodes, block_size)
    for chunk in plan.chunks:
        _append_chunk(batch, chunk, block_size)
    if before is not None:
        carry(batch, plan, before)
    return batch


def _flatten_decodes(decodes: list[Sequence], block_size: int) -> FlatBatch:
    positions = [sequence.num_launched for sequence in decodes]
    block_tables = [sequence.block_table for sequence in decodes]
    seq_lens = [position + 1 for position in positions]
    return FlatBatch(
        token_ids=[sequence.token_ids[-1] for sequence in decodes],
        positions=positions,
        slot_mapping=[
            table[position // block_size] * block_size + position % block_size
            for table, position in zip(block_tables, positions, strict=True)
        ],
        query_start_loc=list(range(len(decodes) + 1)),
        seq_lens=seq_lens,
        block_tables=block_tables,
        sample_rows=list(range(len(decodes))),
        sampling=_decode_rows(decodes, seq_lens),
    )


def _decode_rows(decodes: list[Sequence], next_positions: list[int]) -> list[SamplingRow]:
    rows = [sequence.row for sequence in decodes]
    for row, position in zip(rows, next_positions, strict=True):
        row.position = position
    return rows


def _append_chunk(batch: FlatBatch, chunk: ScheduledChunk, block_size: int) -> None:
    sequence, start, end = chunk.sequence, chunk.start, chunk.start + chunk.length
    if sequence.params.prompt_logprobs is not None:
        _append_scores(batch, chunk, sequence.params.prompt_logprobs)
    batch.token_ids.extend(sequence.token_ids[start:end] or [_AWAITED])
    batch.token_ids.extend(chunk.drafts)
    batch.positions.extend(range(start, end))
    _append_slots(batch.slot_mapping, sequence.block_table, start, end, block_size)
    batch.query_start_loc.append(len(batch.token_ids))
    batch.seq_lens.append(end)
    batch.block_tables.append(sequence.block_table)
    samples = chunk.num_samples
    batch.sample_rows.extend(range(len(batch.token_ids) - samples, len(batch.token_ids)))
    batch.sampling.extend(sequence.make_row(sequence.num_tokens + index) for index in range(samples))


def _append_slots(slots: list[int], block_table: list[int], start: int, end: int, block_size: int) -> None:
    while start < end:  # one block at a time
        first = block_table[start // block_size] * block_size + start % block_size
        count = min(block_size - start % block_size, end - start)
        slots.extend(range(first, first + count))
        start += count


def _append_scores(batch: FlatBatch, chunk: ScheduledChunk, top: int) -> None:
    """A score for each token of the prompt that the chunk's rows predict, unless it went out before a preemption."""
    sequence, first_row = chunk.sequence, len(batch.token_ids)
    for index in scored_tokens(chunk):
        batch.scoring.append(ScoreRow(first_row + index - 1 - chunk.start, sequence.token_ids[index], top))


def scored_tokens(chunk: ScheduledChunk) -> range:
    """Indices of the prompt's tokens whose log probabilities this chunk yields."""
    sequence = chunk.sequence
    if sequence.params.prompt_logprobs is None:
        return range(0)
    end = min(chunk.start + chunk.length + 1, sequence.num_prompt_tokens)
    return range(max(chunk.start + 1, sequence.num_scored), max(end, chunk.start + 1))

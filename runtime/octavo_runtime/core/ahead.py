"""Planning a step while the one before it is still being computed, and so before its tokens are known.

    host     plan N │ launch N │ plan N+1 │ launch N+1 │ wait for N, take its tokens │ plan N+2 │ launch N+2 │ ...
    device              │ N ────────────────────────────────────│ N+1 ──────────────────────────────────│ N+2

Step N+1 supposes that each sequence which samples in step N gets one token and goes on. To plan, the token is not
needed: it has a position and a slot, and the runner puts it in its place on the device (`FlatBatch.carried_rows`).
Where the supposition is wrong (a stop token, an abort) the sequence is gone when step N+1 is taken, and its row there
is dropped.

Nobody waits for such a row before its blocks are given away: the device computes steps in the order in which they were
launched, so what the row writes is there before the next holder writes, and a slot is read only by whoever has written
it. Nor can it spoil a block of the prefix cache: it writes behind the computed tokens, and only whole blocks of those
have a key. Only what has been taken counts as computed, so a step that fails leaves nothing behind that others could
find (`Sequence.num_computed` against `num_launched`).

At most one step is planned ahead, and not on top of one whose results decide what comes next (`is_foreseeable`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.core.batch import BatchPlan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo_runtime.core.batch import FlatBatch, ScheduledChunk
    from octavo_runtime.core.sequence import Sequence


def is_foreseeable(plan: BatchPlan) -> bool:
    """Whether the step after `plan` can be planned before its results are there.

    It cannot for a sequence whose next tokens are guessed or chosen by the ones before them (drafts, penalties, bad
    words). Nor should it where room is lacking: results may make room, and a victim would lose the token that it is
    about to get.
    """
    return (
        not plan.postponed
        and not any(_waits_for_its_token(chunk) for chunk in plan.chunks)
        and not any([sequence.ngrams for sequence in plan.decodes])  # noqa: C419  a list is faster
    )


def _waits_for_its_token(chunk: ScheduledChunk) -> bool:
    return chunk.samples and (chunk.sequence.ngrams is not None or chunk.sequence.params.reads_output)


def mark_launched(plan: BatchPlan) -> None:
    """The tokens of `plan` are being computed."""
    for sequence in plan.decodes:
        sequence.num_launched += 1
    for chunk in plan.chunks:  # drafts are no tokens yet
        chunk.sequence.num_launched = chunk.start + chunk.length - len(chunk.drafts)


def recall(running: Iterable[Sequence]) -> None:
    """All that is under way is thrown away: every sequence is where the results that were taken have brought it."""
    for sequence in running:
        sequence.num_launched = sequence.num_computed


def remaining(plan: BatchPlan) -> BatchPlan:
    """What is left to compute of a plan whose step failed, without the sequences that have left since."""
    return BatchPlan(
        [sequence for sequence in plan.decodes if sequence.block_table],
        [chunk for chunk in plan.chunks if chunk.sequence.block_table],
    )


def carry(batch: FlatBatch, plan: BatchPlan, before: BatchPlan) -> None:
    """Say which tokens of `batch`, the flat form of `plan`, the step of `before` samples."""
    sources = _sources(before)
    sequences = [*plan.decodes, *(chunk.sequence for chunk in plan.chunks)]
    for sequence, row in zip(sequences, batch.query_start_loc, strict=False):  # which has one entry more: the end
        source = sources.get(sequence.seq_id)
        if source is not None:
            batch.carried_rows.append(row)
            batch.carried_from.append(source)


def _sources(before: BatchPlan) -> dict[int, int]:
    """Where in the step's `sampling` each sequence is."""
    sources = {sequence.seq_id: index for index, sequence in enumerate(before.decodes)}
    index = len(sources)
    for chunk in before.chunks:
        if chunk.samples:
            sources[chunk.sequence.seq_id] = index
        index += chunk.num_samples
    return sources

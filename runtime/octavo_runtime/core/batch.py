"""What one engine step computes, as plain data: the scheduler's plan, and its flat form for the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How to pick the next token. Parsed and bounded at the border (server/), trusted from here on."""

    max_tokens: int
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    top_k: int = 0  # 0: all
    seed: int = 0
    stop_token_ids: frozenset[int] = frozenset()  # end of sequence and the request's own; never part of the text
    min_tokens: int = 0


class ScheduledChunk(NamedTuple):
    """The tokens `[start, start + length)` of one sequence, to be computed in this step.

    A named tuple, as `SamplingRow` is: one is made per sequence and step, at a third of a frozen dataclass's price.
    """

    seq_id: int
    start: int
    length: int  # 1 for a decode, more for a (chunked) prefill
    samples: bool  # the chunk reaches the sequence's last known token, so the step yields a new one


@dataclass(frozen=True, slots=True)
class BatchPlan:
    chunks: tuple[ScheduledChunk, ...]
    preempted: tuple[int, ...]  # sequence ids that lost their blocks to make room
    admitted: tuple[int, ...]  # sequence ids that left the waiting queue for the first time
    num_tokens: int  # at most the token budget


class SamplingRow(NamedTuple):
    """What the sampler needs for one sequence. (seed, position) is the random counter: the same pair gives the same
    choice whatever the batch, the preemptions or the replica.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    position: int  # index of the token to be sampled, counted from the prompt's first token
    forbidden: frozenset[int] = frozenset()  # ids that must not be chosen now (stop ids before min_tokens)


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """A plan without nesting. T tokens, S sequences; plain ints, made tensors by the runner.

    `sample_rows[i]` is the index in [0, S) of the sequence that `sampling[i]` is for; its logits are those of its last
    query token, row `query_start_loc[sample_rows[i] + 1] - 1`.

    The block tables are the sequences' own lists, not copies: valid until the step ends, read only.
    """

    token_ids: list[int]  # [T]
    positions: list[int]  # [T]
    slot_mapping: list[int]  # [T]
    query_start_loc: list[int]  # [S + 1]
    seq_lens: list[int]  # [S], context length including this step's tokens
    block_tables: list[list[int]]  # [S], each covers at least the sequence's context
    sample_rows: list[int]
    sampling: list[SamplingRow]

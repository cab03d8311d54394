"""What a step yields, as plain data."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from octavo_runtime.core.batch import TokenLogprobs  # noqa: TC001  msgspec reads `Output` at run time
from octavo_runtime.core.sequence import FinishReason  # noqa: TC001

if TYPE_CHECKING:
    from collections.abc import Iterator


class Output(NamedTuple):
    """News of a sequence, which is gone from the scheduler when `finish_reason` is set."""

    seq_id: int
    tokens: list[int]
    finish_reason: FinishReason | None
    logprobs: list[TokenLogprobs] | None = None  # one per token, where asked for
    prompt_logprobs: list[TokenLogprobs] | None = None  # of the next tokens of the prompt, where asked for


class StepOutputs(NamedTuple):
    """All news of a step. The common kind, one token of a sequence that goes on, takes two ints instead of a record."""

    decoded: list[int]  # sequence ids
    tokens: list[int]  # one for each of `decoded`
    others: list[Output]

    def then(self, later: StepOutputs) -> StepOutputs:
        """The news of one step and of a later one, which may have news of the same sequences."""
        return self._replace(others=[*self.others, *later.each()])

    def __add__(self, other: StepOutputs) -> StepOutputs:  # type: ignore[override]
        """The news of both halves of a step."""
        return StepOutputs(self.decoded + other.decoded, self.tokens + other.tokens, self.others + other.others)

    def each(self) -> Iterator[Output]:
        """One `Output` for each sequence that has news."""
        for seq_id, token in zip(self.decoded, self.tokens, strict=True):
            yield Output(seq_id, [token], None)
        yield from self.others


@dataclass(frozen=True, slots=True)
class SchedulerStats:
    """A snapshot, with totals since the start."""

    running: int
    waiting: int
    waiting_tokens: int  # tokens that the waiting sequences have yet to compute
    kv_tokens_used: int  # in blocks that live sequences hold
    kv_tokens_capacity: int
    preemptions: int
    prompt_tokens: int  # of prompts computed or found in the cache; a recomputation does not count again
    generation_tokens: int
    prefix_queries: int  # prompt tokens that were looked up in the prefix cache
    prefix_hits: int  # those that were found there
    spec_draft_tokens: int  # guesses that were checked
    spec_accepted_tokens: int  # those that were right

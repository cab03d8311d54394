"""What one engine step computes, as plain data: the scheduler's plan, and its flat form for the model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from octavo_runtime.core.sequence import Sequence


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
    min_p: float = 0.0  # least probability, as a share of the most probable token's
    repetition_penalty: float = 1.0  # divides (multiplies, below 0) the logits of tokens in prompt and output
    presence_penalty: float = 0.0  # taken from the logits of tokens in the output
    frequency_penalty: float = 0.0  # the same, times how often they are there
    logit_bias: tuple[tuple[int, float], ...] = ()  # (token id, what is added to its logit)
    bad_words: tuple[tuple[int, ...], ...] = ()  # token sequences that must not be completed
    logprobs: int | None = None  # log probabilities of the chosen token and of so many most probable; None: not at all
    prompt_logprobs: int | None = None  # the same for each token of the prompt after the first
    allowed_token_ids: tuple[int, ...] | None = None  # None: all

    @property
    def reads_output(self) -> bool:
        """Whether the sampler must know the tokens before the one that it chooses."""
        return (
            self.repetition_penalty != 1
            or self.presence_penalty != 0
            or self.frequency_penalty != 0
            or bool(self.bad_words)
        )

    @property
    def shapes_logits(self) -> bool:
        """Whether the sampler must look further than temperature, top_k and top_p."""
        return (
            self.min_p > 0
            or self.reads_output
            or bool(self.logit_bias)
            or self.logprobs is not None
            or self.allowed_token_ids is not None
        )


class ScheduledChunk(NamedTuple):
    """The tokens `[start, start + length)` of one sequence, to be computed in this step.

    With `drafts` the last ones are guesses: known tokens up to `start + length - len(drafts)`, then `drafts`.
    """

    sequence: Sequence
    start: int
    length: int
    samples: bool  # the chunk reaches the sequence's last known token, so the step yields a new one
    drafts: list[int] | tuple[()] = ()

    @property
    def num_samples(self) -> int:
        return 1 + len(self.drafts) if self.samples else 0


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """What the next step computes: `decodes`, then `chunks`.

    A decode is the plain case, one token of a sequence that asks for nothing special. It needs no record of its own,
    which is most of what makes a step of many decodes cheap.
    """

    decodes: list[Sequence]
    chunks: list[ScheduledChunk]  # pieces of prompts, recomputations, drafts, and decodes that ask for more
    preempted: list[int] = field(default_factory=list)  # sequence ids that lost their blocks to make room
    postponed: list[int] = field(default_factory=list)  # sequence ids that lack room while a step is under way
    admitted: list[Sequence] = field(default_factory=list)  # those that left the waiting queue for the first time
    expired: list[int] = field(
        default_factory=list
    )  # sequence ids whose deadline passed or cannot be met; they are gone

    @property
    def num_tokens(self) -> int:
        """At most the token budget."""
        return len(self.decodes) + sum(chunk.length for chunk in self.chunks)

    @property
    def num_sequences(self) -> int:
        return len(self.decodes) + len(self.chunks)

    def split(self) -> tuple[BatchPlan, BatchPlan]:
        """Two halves of a plan of more than one sequence."""
        middle = self.num_sequences // 2
        chunks = max(middle - len(self.decodes), 0)
        return (
            BatchPlan(self.decodes[:middle], self.chunks[:chunks]),
            BatchPlan(self.decodes[middle:], self.chunks[chunks:]),
        )


class Shaping(NamedTuple):
    """What a row needs beyond `SamplingRow`'s own fields, where a request asks for more than most do."""

    params: SamplingParams
    tokens: list[int]  # prompt and output up to the token to be sampled; may be the sequence's own list, read only
    num_prompt_tokens: int


@dataclass(slots=True)
class SamplingRow:
    """What the sampler needs for one sequence. (seed, position) is the random counter: the same pair gives the same
    choice whatever the batch, the preemptions or the replica.

    Read only for the runner, and valid until the step has been launched: a sequence keeps its row and moves its
    position on.
    """

    temperature: float
    top_p: float
    top_k: int
    seed: int
    position: int  # index of the token to be sampled, counted from the prompt's first token
    forbidden: frozenset[int] = frozenset()  # ids that must not be chosen now (stop ids before min_tokens)
    shaping: Shaping | None = None


class ScoreRow(NamedTuple):
    """A token of the prompt whose log probability is wanted."""

    row: int  # index in [0, T) of the token before it, whose logits say how likely it is
    token: int
    top: int  # how many most probable tokens are wanted beside it


class TokenLogprobs(NamedTuple):
    """Natural logarithms of probabilities under the model's raw logits, before temperature, penalties and filters."""

    token: int
    logprob: float
    rank: int  # 1: the most probable
    top: list[tuple[int, float]]  # (token id, logprob), most probable first


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a runner computed for a `FlatBatch`."""

    tokens: list[int]  # one per entry of `sampling`
    logprobs: list[TokenLogprobs | None] | None = None  # the same; None: nobody asked
    scores: list[TokenLogprobs] | None = None  # one per entry of `scoring`


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """A plan without nesting. T tokens, S sequences; plain ints, made tensors by the runner.

    `sample_rows[i]` is the index in [0, T) of the token whose logits `sampling[i]` chooses from: the last of its
    sequence, and with draft tokens (speculative decoding) also the ones before them.

    The block tables are the sequences' own lists, not copies: valid until the step has been launched, read only.
    """

    token_ids: list[int]  # [T]
    positions: list[int]  # [T]
    slot_mapping: list[int]  # [T]
    query_start_loc: list[int]  # [S + 1]
    seq_lens: list[int]  # [S], context length including this step's tokens
    block_tables: list[list[int]]  # [S], each covers at least the sequence's context
    sample_rows: list[int]
    sampling: list[SamplingRow]
    scoring: list[ScoreRow] = field(default_factory=list)
    # Where a token is not known yet, because the step launched just before samples it (see core/ahead.py).
    carried_rows: list[int] = field(default_factory=list)  # indices in [0, T)
    carried_from: list[int] = field(default_factory=list)  # for each of them, an index in that step's `sampling`

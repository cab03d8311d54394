"""One sequence: a prompt and the tokens generated after it. The only record that the core changes in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from octavo_runtime.core.batch import SamplingRow, Shaping

if TYPE_CHECKING:
    from octavo_runtime.core.batch import SamplingParams
    from octavo_runtime.core.drafts import NgramIndex

_NOTHING: Final[frozenset[int]] = frozenset()


class FinishReason(StrEnum):
    STOP = "stop"  # a stop token was sampled
    LENGTH = "length"  # max_tokens were generated
    ABORT = "abort"  # the client went away, or the server gave the request up
    DEADLINE = "deadline"  # the request's deadline passed, or cannot be met


@dataclass(slots=True, eq=False)
class Sequence:
    """What the scheduler knows of one request.

        token_ids    |  prompt               |  output          |
                     0                       num_prompt_tokens  len(token_ids)
        computed     |#####################|-----|                 keys and values are in the blocks, or will be: - - -
                     0                     |     num_launched         is what steps under way compute
                                           num_computed
        block_table  [7     ][2     ][9     ][4     ]              covers at least [0, num_computed)
        block_keys   [k0    ][k1    ][k2    ]                      of blocks that known tokens fill
        registered   [7     ][2     ]                              computed whole, and in the cache under their keys

    `num_launched == num_tokens - 1` is a decode: only the last token has yet to pass through the model. A prefill and a
    preempted sequence are further behind, and catch up in chunks. While no step is under way, `num_launched` is
    `num_computed` and `num_tokens` is `len(token_ids)`.
    """

    seq_id: int
    token_ids: list[int]  # starts as the prompt; grows
    params: SamplingParams
    tenant: str = ""
    priority: int = 0  # lower is earlier, within the tenant
    arrived_at: float = 0.0  # seconds, on the clock of `Scheduler.schedule`'s `now`
    deadline: float | None = None  # on the same clock: a later answer is of no use
    root_key: bytes = b""  # of the prefix cache, see core/keys.py
    num_prompt_tokens: int = field(init=False)
    num_computed: int = 0  # by steps whose results have been taken
    num_launched: int = 0  # these, and the known or awaited tokens that steps under way compute
    block_table: list[int] = field(default_factory=list)
    capacity: int = 0  # tokens that the blocks in the table hold
    block_keys: list[bytes] = field(default_factory=list)
    num_registered: int = 0  # blocks
    num_shared: int = 0  # blocks that were found in the cache at the last start
    awaited_key: bytes | None = None  # of a block that another sequence is computing
    admitted: bool = False  # has left the waiting queue at least once
    decodes: bool = False  # one token to compute, and nothing special to ask of the sampler
    num_charged: int = 0  # tokens that the tenant's counter knows of
    num_scored: int = 1  # tokens of the prompt whose log probabilities went out, where asked for; the first has none
    ngrams: NgramIndex | None = None  # where drafts come from, when they are wanted
    # Copies of what `params` says: read for each sequence in each step.
    max_num_tokens: int = field(init=False)  # length at which the sequence is finished
    min_num_tokens: int = field(init=False)  # length before which no stop token may be sampled
    stop_token_ids: frozenset[int] = field(init=False)
    shaped: bool = field(init=False)
    row: SamplingRow = field(init=False)  # of the next token

    def __post_init__(self) -> None:
        params = self.params
        self.num_prompt_tokens = len(self.token_ids)
        self.max_num_tokens = self.num_prompt_tokens + params.max_tokens
        self.min_num_tokens = self.num_prompt_tokens + params.min_tokens
        self.stop_token_ids = params.stop_token_ids
        self.shaped = params.shapes_logits
        self.row = self.make_row(self.num_prompt_tokens)

    @property
    def num_tokens(self) -> int:
        """Tokens that are known, and those that steps under way will yield if the sequence does not end with them."""
        return max(len(self.token_ids), self.num_launched + 1)

    def expect_decode(self) -> None:
        """All tokens but the last are computed. The next one is plain if `row`, moved on, says all that it needs."""
        self.decodes = not self.shaped and self.num_tokens >= self.min_num_tokens
        self.row = self.make_row(self.num_tokens)

    def make_row(self, position: int) -> SamplingRow:
        """What the sampler needs for the token at `position`."""
        params = self.params
        forbidden = params.stop_token_ids if position < self.min_num_tokens else _NOTHING
        shaping = Shaping(params, self.token_ids, self.num_prompt_tokens) if self.shaped else None
        return SamplingRow(params.temperature, params.top_p, params.top_k, params.seed, position, forbidden, shaping)

    def check_integrity(self, under_way: int) -> None:
        """Raise `AssertionError` unless a running sequence is where its steps, of which some are `under_way`, are."""
        assert self.num_computed < len(self.token_ids), f"sequence {self.seq_id} has nothing to compute"
        assert self.num_computed <= self.num_launched <= self.capacity, f"sequence {self.seq_id} outgrew its blocks"
        awaited = self.num_tokens - len(self.token_ids)
        assert awaited <= under_way, f"sequence {self.seq_id} awaits {awaited} tokens of {under_way} steps"
        assert under_way or self.num_launched == self.num_computed, f"no step computes sequence {self.seq_id}"

    def append(self, token: int) -> FinishReason | None:
        """Take a sampled token; say whether the sequence ends with it."""
        self.token_ids.append(token)
        if token in self.stop_token_ids:
            return FinishReason.STOP
        if len(self.token_ids) >= self.max_num_tokens:
            return FinishReason.LENGTH
        return None

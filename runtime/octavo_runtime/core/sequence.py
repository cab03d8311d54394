"""One sequence: a prompt and the tokens generated after it. The only record that the core changes in place."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from octavo_runtime.core.batch import SamplingParams


class FinishReason(StrEnum):
    STOP = "stop"  # a stop token was sampled
    LENGTH = "length"  # max_tokens were generated
    ABORT = "abort"  # the client went away, or the server gave the request up


@dataclass(slots=True, eq=False)
class Sequence:
    """What the scheduler knows of one request.

        token_ids    |  prompt               |  output          |
                     0                       num_prompt_tokens  num_tokens
        computed     |#####################|                       keys and values are in the blocks
                     0                     num_computed
        block_table  [7     ][2     ][9     ][4     ]              covers at least [0, num_computed)

    `num_computed == num_tokens - 1` is a decode: only the last token has yet to pass through the model. A prefill and a
    preempted sequence are further behind, and catch up in chunks.
    """

    seq_id: int
    token_ids: list[int]  # starts as the prompt; grows
    params: SamplingParams
    num_prompt_tokens: int = field(init=False)
    num_computed: int = 0
    block_table: list[int] = field(default_factory=list)
    admitted: bool = False  # has left the waiting queue at least once
    # Copies of what `params` says: read for each sequence in each step.
    max_num_tokens: int = field(init=False)  # length at which the sequence is finished
    min_num_tokens: int = field(init=False)  # length before which no stop token may be sampled

    def __post_init__(self) -> None:
        self.num_prompt_tokens = len(self.token_ids)
        self.max_num_tokens = self.num_prompt_tokens + self.params.max_tokens
        self.min_num_tokens = self.num_prompt_tokens + self.params.min_tokens

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)

    def append(self, token: int) -> FinishReason | None:
        """Take a sampled token; say whether the sequence ends with it."""
        self.token_ids.append(token)
        if token in self.params.stop_token_ids:
            return FinishReason.STOP
        if len(self.token_ids) >= self.max_num_tokens:
            return FinishReason.LENGTH
        return None

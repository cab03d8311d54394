"""Log probabilities in the shapes that clients know: OpenAI's for chats and for completions, vLLM's for prompts."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING, Final

from octavo_runtime.server.schema import (
    ChatLogprobs,
    ChatTokenLogprob,
    CompletionLogprobs,
    PromptLogprob,
    PromptLogprobs,
    TopLogprob,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo_runtime.core.batch import TokenLogprobs
    from octavo_runtime.text.pieces import Pieces

_IMPOSSIBLE: Final = -9999.0  # JSON has no minus infinity; OpenAI and vLLM write this


def chat_logprobs(entries: Sequence[TokenLogprobs], pieces: Pieces) -> ChatLogprobs:
    return ChatLogprobs(
        [
            ChatTokenLogprob(
                pieces.name_of(entry.token),
                _finite(entry.logprob),
                list(pieces.bytes_of(entry.token)),
                [
                    TopLogprob(pieces.name_of(token), _finite(logprob), list(pieces.bytes_of(token)))
                    for token, logprob in entry.top
                ],
            )
            for entry in entries
        ]
    )


def prompt_logprobs(entries: Sequence[TokenLogprobs], pieces: Pieces) -> PromptLogprobs:
    """Each token of the prompt with the most probable ones in its place, by token id; None for the first."""
    listed: PromptLogprobs = [None]
    for entry in entries:
        top = {
            token: PromptLogprob(_finite(logprob), rank, pieces.name_of(token))
            for rank, (token, logprob) in enumerate(entry.top, start=1)
        }
        own = PromptLogprob(_finite(entry.logprob), entry.rank, pieces.name_of(entry.token))
        listed.append({entry.token: own} | {token: one for token, one in top.items() if token != entry.token})
    return listed


class CompletionLogprobsWriter:
    """Writes one choice's logprobs piece by piece, and keeps count of its text."""

    def __init__(self, pieces: Pieces, *, skip_special_tokens: bool) -> None:
        self._pieces = pieces
        self._skip_special_tokens = skip_special_tokens
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def prompt(self, tokens: Sequence[int], entries: Sequence[TokenLogprobs]) -> CompletionLogprobs:
        """Of an echoed prompt: nothing comes before its first token, so that has none."""
        written = CompletionLogprobs()
        self._append(written, tokens[0], None)
        return joined(written, self.answer(entries))

    def answer(self, entries: Sequence[TokenLogprobs]) -> CompletionLogprobs:
        written = CompletionLogprobs()
        for entry in entries:
            self._append(written, entry.token, entry)
        return written

    def _append(self, written: CompletionLogprobs, token: int, entry: TokenLogprobs | None) -> None:
        written.tokens.append(self._pieces.name_of(token))
        written.text_offset.append(self._offset)
        written.token_logprobs.append(None if entry is None else _finite(entry.logprob))
        written.top_logprobs.append(None if entry is None else self._top(entry))
        if not (self._skip_special_tokens and self._pieces.is_special(token)):
            self._offset += len(self._decoder.decode(self._pieces.bytes_of(token)))

    def _top(self, entry: TokenLogprobs) -> dict[str, float]:
        """As OpenAI's, with the chosen token also where it is not among the most probable."""
        scores = [(entry.token, entry.logprob), *entry.top]
        return {self._pieces.name_of(token): _finite(logprob) for token, logprob in scores}


def joined(first: CompletionLogprobs, second: CompletionLogprobs) -> CompletionLogprobs:
    return CompletionLogprobs(
        first.tokens + second.tokens,
        first.token_logprobs + second.token_logprobs,
        first.top_logprobs + second.top_logprobs,
        first.text_offset + second.text_offset,
    )


def _finite(logprob: float) -> float:
    return max(logprob, _IMPOSSIBLE)

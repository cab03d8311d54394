r"""Token ids to text, as they come: never half a character, never part of a stop string.

decoded so far      "The answer is 4.\n\nHum"          stop = ["\n\nHuman:"]
given out           "The answer is 4."
held                                  "\n\nHum"        may still become the stop string
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tokenizers.decoders import DecodeStream

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo_runtime.text.tokenizer import Tokenizer

_CONTEXT: Final = 6  # prompt tokens that decide how the first new one is spelled (a leading space, for instance)


class Detokenizer:
    """The text of one growing sequence."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        stop: Sequence[str] = (),
        *,
        prompt_ids: Sequence[int] = (),
        skip_special_tokens: bool = True,
        include_stop: bool = False,
    ) -> None:
        """`include_stop`: the stop string that ends the text is part of it."""
        self._backend = tokenizer.backend
        self._skip_special_tokens = skip_special_tokens
        context = list(prompt_ids[-_CONTEXT:])
        if tokenizer.decode(context, skip_special_tokens).endswith("\ufffd"):
            context = []  # the stream would take it for half a character and give the prompt's end out again
        self._stream = DecodeStream(ids=context, skip_special_tokens=skip_special_tokens)
        self._stop = tuple(stop)
        self._include_stop = include_stop
        self._held = ""
        self.matched: str | None = None  # the stop string that ended the text

    def add(self, token_ids: Sequence[int], *, may_stop: bool = True) -> str:
        """Take the next tokens and return the text that is now certain; "" once a stop string has matched.

        A stop string that these tokens complete counts only if they `may_stop`.
        """
        if self.matched is not None:
            return ""
        seen = len(self._held)
        self._held += "".join(self._decode(token_id) for token_id in token_ids)
        if may_stop and self._match(seen):
            return self._release(len(self._held))
        return self._release(len(self._held) - self._possible_stop())

    def finish(self) -> str:
        """Return what was held in case of a stop string. An unfinished UTF-8 character at the end is dropped."""
        return self._release(len(self._held))

    def _decode(self, token_id: int) -> str:
        try:
            text: str | None = self._stream.step(self._backend, token_id)
        except Exception as error:
            # Bytes that are no UTF-8 can make the library lose its place; it says so, and a new stream goes on.
            if "Invalid prefix" not in str(error):
                raise
            self._stream = DecodeStream(skip_special_tokens=self._skip_special_tokens)
            text = self._stream.step(self._backend, token_id)
        return text or ""

    def _match(self, seen: int) -> bool:
        """Cut the held text before the stop string that is complete first, and of two the longer.

        One that was complete within the first `seen` characters came too early to count.

        Which one is complete first does not depend on how many tokens come at a time.
        """
        places = [(self._held.find(stop, max(0, seen - len(stop) + 1)), stop) for stop in self._stop]
        found = [(at + len(stop), at, stop) for at, stop in places if at >= 0]
        if not found:
            return False
        end, at, self.matched = min(found)
        self._held = self._held[: end if self._include_stop else at]
        return True

    def _possible_stop(self) -> int:
        """Length of the longest end of the held text with which some stop string begins."""
        lengths = (
            length
            for stop in self._stop
            for length in range(min(len(stop) - 1, len(self._held)), 0, -1)
            if self._held.endswith(stop[:length])
        )
        return max(lengths, default=0)

    def _release(self, length: int) -> str:
        text, self._held = self._held[:length], self._held[length:]
        return text

"""One answer on its way: token ids from the engine become text for a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from octavo_runtime.core.sequence import FinishReason
from octavo_runtime.server.openai import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from octavo_runtime.engine.client import EngineClient
    from octavo_runtime.engine.slot import OutputSlot
    from octavo_runtime.server import openai
    from octavo_runtime.text.detokenize import Detokenizer


SILENCE: Final = 15.0  # seconds without news after which a reader is told that there are none


class TextDelta(NamedTuple):
    """A piece of the answer. Neither text nor a finish reason: nothing new for `SILENCE` seconds."""

    text: str
    finish_reason: openai.FinishReason | None


class Generation:
    """Iterate over `deltas()`; the last one has a finish reason. `close()` it, however that went."""

    def __init__(
        self, engine: EngineClient, slot: OutputSlot, detokenizer: Detokenizer, num_prompt_tokens: int
    ) -> None:
        self._engine = engine
        self._slot = slot
        self._detokenizer = detokenizer
        self._num_prompt_tokens = num_prompt_tokens
        self._num_tokens = 0

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """Text as it comes. Raises the `RequestError` that ends the request."""
        while True:
            tokens, finish_reason, _, _ = await self._slot.get(SILENCE)
            text, stopped = self._take(tokens, finish_reason)
            if stopped:
                self._engine.abort(self._slot, FinishReason.STOP)
                finish_reason = FinishReason.STOP
            elif finish_reason is not None:
                text += self._detokenizer.finish()
            if text or finish_reason or not tokens:  # else half a character, or what may become a stop string
                yield TextDelta(text, _for_client(finish_reason))
            if finish_reason is not None:
                return

    async def whole(self) -> TextDelta:
        """All of the text at once."""
        deltas = [delta async for delta in self.deltas()]
        return TextDelta("".join(delta.text for delta in deltas), deltas[-1].finish_reason)

    def usage(self) -> Usage:
        return Usage(self._num_prompt_tokens, self._num_tokens, self._num_prompt_tokens + self._num_tokens)

    def close(self) -> None:
        """Stop computing if somebody still does: the client is gone, or has what it wants."""
        self._engine.abort(self._slot)

    def _take(self, tokens: Sequence[int], finish_reason: FinishReason | None) -> tuple[str, bool]:
        """Add `tokens` up to the one that completes a stop string; return their text and whether there was one."""
        text = ""
        last = len(tokens) - 1 if finish_reason is FinishReason.STOP else len(tokens)  # a stop token has no text
        for index, token in enumerate(tokens):
            self._num_tokens += 1
            if index < last:
                text += self._detokenizer.add([token])
            if self._detokenizer.matched is not None:
                return text, True
        return text, False


def _for_client(reason: FinishReason | None) -> openai.FinishReason | None:
    match reason:
        case None:
            return None
        case FinishReason.STOP:
            return "stop"
        case _:
            return "length"

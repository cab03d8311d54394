"""An answer on its way: token ids from the engine become text for a client. One sequence is one choice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

from octavo_runtime.core.sequence import FinishReason
from octavo_runtime.server.schema import PromptTokensDetails, Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from octavo_runtime.core.batch import TokenLogprobs
    from octavo_runtime.engine.client import EngineClient
    from octavo_runtime.engine.slot import Delta, OutputSlot
    from octavo_runtime.server import schema
    from octavo_runtime.text.detokenize import Detokenizer
    from octavo_runtime.text.tokenizer import Tokenizer


SILENCE: Final = 15.0  # seconds without news after which a reader is told that there are none


@dataclass(frozen=True, slots=True)
class Prompt:
    tokens: list[int]
    text: str  # only for an echo


class TextDelta(NamedTuple):
    """A piece of a choice. Neither text nor a finish reason: nothing new for `SILENCE` seconds."""

    text: str
    finish_reason: schema.FinishReason | None
    logprobs: Sequence[TokenLogprobs] = ()  # of all tokens up to here that no earlier piece had, where asked for


class Choice:
    """One sequence. Iterate over `deltas()`; the last one has a finish reason. `close()` it, however that went."""

    def __init__(
        self,
        engine: EngineClient,
        slot: OutputSlot,
        detokenizer: Detokenizer,
        prompt: Prompt,
        *,
        max_tokens: int | None,
        min_tokens: int,
        shows_stop_token: bool,
    ) -> None:
        """With `max_tokens` 0 the one token that an engine must generate is thrown away: the prompt was all of it."""
        self.prompt = prompt
        self.prompt_logprobs: list[TokenLogprobs] = []  # complete with the first delta, where asked for
        self.num_tokens = 0
        self._engine = engine
        self._slot = slot
        self._detokenizer = detokenizer
        self._wants_tokens = max_tokens != 0
        self._min_tokens = min_tokens
        self._shows_stop_token = shows_stop_token
        self._logprobs: list[TokenLogprobs] = []  # of tokens whose text is not out

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were found in the prefix cache."""
        return self._slot.cached_tokens

    async def deltas(self) -> AsyncIterator[TextDelta]:
        """Text as it comes. Raises the `RequestError` that ends the request."""
        while True:
            delta = await self._slot.get(SILENCE)
            self.prompt_logprobs += delta.prompt_logprobs
            text, finish_reason = self._take(delta)
            if text or finish_reason:
                logprobs, self._logprobs = self._logprobs, []
                yield TextDelta(text, _for_client(finish_reason), logprobs)
            elif not delta.tokens:  # else half a character, or what may become a stop string
                yield TextDelta("", None)
            if finish_reason is not None:
                return

    def close(self) -> None:
        """Stop computing if somebody still does: the client is gone, or has what it wants."""
        self._engine.abort(self._slot)

    def _take(self, delta: Delta) -> tuple[str, FinishReason | None]:
        """The text that `delta` makes certain, and whether the choice ends with it."""
        if not self._wants_tokens:
            return "", FinishReason.LENGTH if delta.tokens else None
        text, stopped = self._add(delta)
        if stopped:
            self._engine.abort(self._slot, FinishReason.STOP)
            return text, FinishReason.STOP
        if delta.finish_reason is not None:
            text += self._detokenizer.finish()
        return text, delta.finish_reason

    def _add(self, delta: Delta) -> tuple[str, bool]:
        """Add tokens up to the one that completes a stop string; return their text and whether there was one."""
        text = ""
        ends_with_stop_token = delta.finish_reason is FinishReason.STOP and not self._shows_stop_token
        last = len(delta.tokens) - 1 if ends_with_stop_token else len(delta.tokens)
        for index, token in enumerate(delta.tokens):
            self.num_tokens += 1
            self._logprobs += delta.logprobs[index : index + 1]
            if index < last:
                text += self._detokenizer.add([token], may_stop=self.num_tokens > self._min_tokens)
            if self._detokenizer.matched is not None:
                return text, True
        return text, False


class Generation:
    """All choices of a request, in the order of its prompts and then of its seeds. `close()` it, however it went."""

    def __init__(self, choices: Sequence[Choice], choices_per_prompt: int, tokenizer: Tokenizer) -> None:
        self.choices = choices
        self.tokenizer = tokenizer
        self._choices_per_prompt = choices_per_prompt

    async def deltas(self) -> AsyncIterator[tuple[int, TextDelta]]:
        """Pieces of all choices as they come, each with its choice's index. Raises what ends any of them."""
        if len(self.choices) == 1:
            async for delta in self.choices[0].deltas():
                yield 0, delta
            return
        async for piece in _interleave([choice.deltas() for choice in self.choices]):
            yield piece

    async def whole(self) -> list[TextDelta]:
        """All of the text, by choice."""
        pieces: list[list[TextDelta]] = [[] for _ in self.choices]
        async for index, delta in self.deltas():
            pieces[index].append(delta)
        return [_joined(deltas) for deltas in pieces]

    def usage(self) -> Usage:
        """A prompt counts once, however many choices it has."""
        firsts = self.choices[:: self._choices_per_prompt]  # of each prompt: others find its blocks
        prompt = sum(len(choice.prompt.tokens) for choice in firsts)
        cached = sum(choice.cached_tokens for choice in firsts)
        completion = sum(choice.num_tokens for choice in self.choices)
        return Usage(prompt, completion, prompt + completion, PromptTokensDetails(cached))

    def close(self) -> None:
        for choice in self.choices:
            choice.close()


async def _interleave(sources: Sequence[AsyncIterator[TextDelta]]) -> AsyncIterator[tuple[int, TextDelta]]:
    """Items of all `sources` as they come, with their source's index; at most one of each is held."""
    waiting = {_next(source): index for index, source in enumerate(sources)}
    try:
        while waiting:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in [task for task in waiting if task.done()]:
                index = waiting.pop(task)
                item = task.result()
                if item is None:
                    continue
                waiting[_next(sources[index])] = index
                yield index, item
    finally:
        for task in waiting:
            task.cancel()


def _next(source: AsyncIterator[TextDelta]) -> asyncio.Task[TextDelta | None]:
    async def item() -> TextDelta | None:
        return await anext(source, None)

    return asyncio.ensure_future(item())


def _joined(deltas: Sequence[TextDelta]) -> TextDelta:
    text = "".join(delta.text for delta in deltas)
    return TextDelta(text, deltas[-1].finish_reason, [one for delta in deltas for one in delta.logprobs])


def _for_client(reason: FinishReason | None) -> schema.FinishReason | None:
    match reason:
        case None:
            return None
        case FinishReason.STOP:
            return "stop"
        case _:
            return "length"

"""Generations in OpenAI's shapes: whole, or chunk by chunk (`None` where there is nothing new for a while)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from octavo_runtime.server.logprobs import CompletionLogprobsWriter, chat_logprobs, joined, prompt_logprobs
from octavo_runtime.server.schema import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatMessage,
    Completion,
    CompletionChoice,
    Usage,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from octavo_runtime.server.generation import Generation, TextDelta
    from octavo_runtime.server.openai import ChatCompletionRequest, CompletionRequest, GenerationRequest
    from octavo_runtime.server.schema import ChatLogprobs, CompletionLogprobs, PromptLogprobs


@dataclass(frozen=True, slots=True)
class _Header:
    """What all chunks of one answer share."""

    id: str
    model: str
    created: int = field(default_factory=lambda: int(time.time()))


def chat_header(model: str) -> _Header:
    return _Header(f"chatcmpl-{uuid4().hex}", model)


def completion_header(model: str) -> _Header:
    return _Header(f"cmpl-{uuid4().hex}", model)


def whole_completion(
    header: _Header, request: CompletionRequest, generation: Generation, whole: Sequence[TextDelta]
) -> Completion:
    writer = _CompletionWriter(request, generation)
    choices = [writer.choice(index, delta) for index, delta in enumerate(whole)]
    if request.prompt_logprobs is not None:
        for index, choice in enumerate(choices):
            choice.prompt_logprobs = _prompt_logprobs(generation, index)
    return Completion(header.id, header.created, header.model, choices, generation.usage())


def whole_chat(
    header: _Header, request: ChatCompletionRequest, generation: Generation, whole: Sequence[TextDelta]
) -> ChatCompletion:
    choices = []
    for index, delta in enumerate(whole):
        assert delta.finish_reason is not None, "a whole answer has an end"
        logprobs = _chat_logprobs(request, generation, delta)
        choices.append(ChatChoice(ChatMessage(delta.text), delta.finish_reason, index, logprobs))
    answer = ChatCompletion(header.id, header.created, header.model, choices, generation.usage())
    if request.prompt_logprobs is not None:
        answer.prompt_logprobs = _prompt_logprobs(generation, 0)
    return answer


async def completion_chunks(
    header: _Header, request: CompletionRequest, generation: Generation
) -> AsyncIterator[Completion | None]:
    def chunk(choices: list[CompletionChoice]) -> Completion:
        usage = _usage_of_chunk(request, generation, choices)
        return Completion(header.id, header.created, header.model, choices, usage)

    writer = _CompletionWriter(request, generation)
    async for index, delta in generation.deltas():
        yield chunk([writer.choice(index, delta)]) if any(delta) else None
    if request.include_usage:
        yield chunk([])


async def chat_chunks(
    header: _Header, request: ChatCompletionRequest, generation: Generation
) -> AsyncIterator[ChatChunk | None]:
    def chunk(choices: list[ChatChunkChoice]) -> ChatChunk:
        usage = _usage_of_chunk(request, generation, choices)
        return ChatChunk(header.id, header.created, header.model, choices, usage)

    begun: set[int] = set()
    async for index, delta in generation.deltas():
        if not any(delta):
            yield None
            continue
        role = None if index in begun else "assistant"  # said once, with the first piece
        begun.add(index)
        said = ChatDelta(role, delta.text if delta.text or role else None)
        logprobs = _chat_logprobs(request, generation, delta)
        yield chunk([ChatChunkChoice(said, delta.finish_reason, index, logprobs)])
    if request.include_usage:
        yield chunk([])


def _usage_of_chunk(
    request: GenerationRequest, generation: Generation, choices: Sequence[msgspec.Struct]
) -> Usage | msgspec.UnsetType | None:
    """Of the request up to now: in the chunk without choices at the end, and in the others if they are to have it."""
    if not request.include_usage:
        return msgspec.UNSET
    return None if choices and not request.continuous_usage else generation.usage()


class _CompletionWriter:
    """Makes pieces of the choices' texts, the first with the prompt where it is to be echoed."""

    def __init__(self, request: CompletionRequest, generation: Generation) -> None:
        self._request = request
        self._generation = generation
        skip = request.skip_special_tokens is not False
        pieces = generation.tokenizer.pieces
        self._logprobs = [CompletionLogprobsWriter(pieces, skip_special_tokens=skip) for _ in generation.choices]
        self._begun: set[int] = set()

    def choice(self, index: int, delta: TextDelta) -> CompletionChoice:
        echoes = bool(self._request.echo) and index not in self._begun
        self._begun.add(index)
        prompt = self._generation.choices[index].prompt
        text = prompt.text + delta.text if echoes else delta.text
        return CompletionChoice(text, delta.finish_reason, index, self._logprobs_of(index, delta, echoes=echoes))

    def _logprobs_of(self, index: int, delta: TextDelta, *, echoes: bool) -> CompletionLogprobs | None:
        if self._request.logprobs is None:
            return None
        writer, choice = self._logprobs[index], self._generation.choices[index]
        if not echoes:
            return writer.answer(delta.logprobs)
        return joined(writer.prompt(choice.prompt.tokens, choice.prompt_logprobs), writer.answer(delta.logprobs))


def _chat_logprobs(request: ChatCompletionRequest, generation: Generation, delta: TextDelta) -> ChatLogprobs | None:
    return chat_logprobs(delta.logprobs, generation.tokenizer.pieces) if request.logprobs else None


def _prompt_logprobs(generation: Generation, index: int) -> PromptLogprobs:
    return prompt_logprobs(generation.choices[index].prompt_logprobs, generation.tokenizer.pieces)

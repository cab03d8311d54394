"""Generations in OpenAI's shapes: whole, or chunk by chunk (`None` where there is nothing new for a while)."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import uuid4

import msgspec

from octavo_runtime.server.openai import (
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
    from collections.abc import AsyncIterator

    from octavo_runtime.server.generation import Generation, TextDelta


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


def whole_completion(header: _Header, generation: Generation, whole: TextDelta) -> Completion:
    choice = CompletionChoice(whole.text, whole.finish_reason)
    return Completion(header.id, header.created, header.model, [choice], generation.usage())


def whole_chat(header: _Header, generation: Generation, whole: TextDelta) -> ChatCompletion:
    assert whole.finish_reason is not None, "a whole answer has an end"
    choice = ChatChoice(ChatMessage(whole.text), whole.finish_reason)
    return ChatCompletion(header.id, header.created, header.model, [choice], generation.usage())


async def completion_chunks(
    header: _Header, generation: Generation, *, include_usage: bool
) -> AsyncIterator[Completion | None]:
    def chunk(choices: list[CompletionChoice], usage: Usage | None) -> Completion:
        return Completion(header.id, header.created, header.model, choices, usage if include_usage else msgspec.UNSET)

    async for delta in generation.deltas():
        yield chunk([CompletionChoice(*delta)], None) if any(delta) else None
    if include_usage:
        yield chunk([], generation.usage())


async def chat_chunks(
    header: _Header, generation: Generation, *, include_usage: bool
) -> AsyncIterator[ChatChunk | None]:
    def chunk(choices: list[ChatChunkChoice], usage: Usage | None) -> ChatChunk:
        return ChatChunk(header.id, header.created, header.model, choices, usage if include_usage else msgspec.UNSET)

    role: str | None = "assistant"  # said once, with the first piece
    async for delta in generation.deltas():
        if not any(delta):
            yield None
            continue
        content = delta.text if delta.text or role else None
        yield chunk([ChatChunkChoice(ChatDelta(role, content), delta.finish_reason)], None)
        role = None
    if include_usage:
        yield chunk([], generation.usage())

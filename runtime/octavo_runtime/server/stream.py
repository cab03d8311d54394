"""Server-sent events: one for each piece of text, comments while there is none, `[DONE]` after a complete answer.

A stream that cannot be completed ends with an error event and without `[DONE]`, so that nobody takes it for whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import StreamingResponse

from octavo_runtime.errors import RequestError
from octavo_runtime.server.errors import error_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from octavo_runtime.server.generation import Generation

_KEEP_ALIVE: Final = b": keep-alive\n\n"  # a comment, so that proxies do not take silence for the end
_DONE: Final = b"data: [DONE]\n\n"


class EventStream(StreamingResponse):
    """Sends `chunks`, each as one event, and `None` as a comment. Closes `generation` when it ends, however it ends."""

    def __init__(self, chunks: AsyncIterator[msgspec.Struct | None], generation: Generation) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(events(chunks), headers=headers, media_type="text/event-stream")
        self._generation = generation

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Starlette stops sending when the client goes: the server tells it through `receive`.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._generation.close()


async def events(chunks: AsyncIterator[msgspec.Struct | None]) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield _KEEP_ALIVE if chunk is None else b"data: " + msgspec.json.encode(chunk) + b"\n\n"
    except RequestError as error:
        yield b"data: " + error_body(error) + b"\n\n"
    else:
        yield _DONE

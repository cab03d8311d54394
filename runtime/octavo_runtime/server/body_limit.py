"""Bounds request bodies, so that nobody can fill the memory with one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException

from octavo_runtime.errors import BodyTooLarge
from octavo_runtime.server.errors import error_response

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# How much and how long is read for nothing, so that a client which writes all before it reads gets the answer: a
# connection that is closed on unread bytes is reset, and the answer is lost with it.
DISCARD_BYTES: Final = 64 << 20
DISCARD_SECONDS: Final = 10.0


class BodyLimitMiddleware:
    """ASGI middleware. A body that is too long is refused, at once if it says so; what comes of it is not kept.

    (Starlette's own limit answers in plain text.)
    """

    def __init__(self, app: ASGIApp, max_body_size: int) -> None:
        self._app = app
        self._max_body_size = max_body_size

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if int(headers.get("content-length", 0)) <= self._max_body_size:
            await self._app(scope, self._limited(receive), send)
            return
        if headers.get("expect", "").lower() != "100-continue":  # such a client waits for our word, and sends nothing
            await _discard(receive)
        await error_response(BodyTooLarge(self._max_body_size))(scope, receive, send)

    def _limited(self, receive: Receive) -> Receive:
        received = 0

        async def receive_some() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_body_size:
                if message.get("more_body", False):
                    await _discard(receive)
                raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
            return message

        return receive_some


async def _discard(receive: Receive) -> None:
    """Read the rest of a body without keeping it, within bounds."""
    discarded, more = 0, True
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while more and discarded < DISCARD_BYTES:
                message = await receive()
                discarded += len(message.get("body", b""))
                more = message.get("more_body", False)

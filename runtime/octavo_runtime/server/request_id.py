"""`X-Request-Id`: the client's own, or a new one, on every answer, so that both sides' logs can be laid together."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final
from uuid import uuid4

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_HEADER: Final = b"x-request-id"
_SENSIBLE: Final = re.compile(rb"[!-~]{1,200}")  # visible ASCII; anything else is not repeated


class RequestIdMiddleware:
    """ASGI middleware. The id is in the scope's state as `request_id` as well."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = dict(scope["headers"]).get(_HEADER, b"")
        request_id = given if _SENSIBLE.fullmatch(given) else uuid4().hex.encode()
        scope.setdefault("state", {})["request_id"] = request_id.decode()

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), (_HEADER, request_id)]
            await send(message)

        await self._app(scope, receive, send_with_id)

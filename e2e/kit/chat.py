"""A chat client that knows a whole stream from a cut one."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class StreamCutError(Exception):
    """The stream ended before its finish reason and its `[DONE]` came, or with an error event."""


class RequestFailedError(Exception):
    """The server did not answer 200."""


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    at: float  # time.monotonic()


def one_connection_each() -> aiohttp.ClientSession:
    """A session that opens a connection for each request.

    A Service balances connections, not requests: with kept connections all load would stay on the first pod.
    """
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(force_close=True, limit=0),
        timeout=aiohttp.ClientTimeout(total=600, sock_connect=60, sock_read=120),
    )


async def stream_chat(session: aiohttp.ClientSession, base_url: str, body: dict[str, Any]) -> AsyncIterator[Piece]:
    """Yield the pieces of a streamed answer; raise unless it ends with a finish reason and `[DONE]`.

    Raises:
        RequestFailedError: the status was not 200; the message has the status and the body's start.
        StreamCutError: the connection closed early, or the server sent an error event.

    """
    finished = False
    async with session.post(f"{base_url}/v1/chat/completions", json=body | {"stream": True}) as response:
        if response.status != 200:
            raise RequestFailedError(f"{response.status}: {(await response.text())[:300]}")
        try:
            async for event in _events(response):
                if event == "[DONE]":
                    if finished:
                        return
                    break
                chunk = json.loads(event)
                if "error" in chunk:
                    raise StreamCutError(f"error event: {chunk['error']}")
                for choice in chunk["choices"]:
                    finished = finished or choice["finish_reason"] is not None
                    if text := choice["delta"].get("content"):
                        yield Piece(text, time.monotonic())
        except aiohttp.ClientError as error:
            raise StreamCutError(f"{type(error).__name__}: {error}") from error
    raise StreamCutError("no finish reason before the end of the stream")


async def _events(response: aiohttp.ClientResponse) -> AsyncIterator[str]:
    async for raw in response.content:
        line = raw.decode().strip()
        if line.startswith("data:"):
            yield line.removeprefix("data:").strip()

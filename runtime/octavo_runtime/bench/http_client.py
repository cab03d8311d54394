"""A small HTTP/1.1 client for a load generator: it must never be what is measured.

asyncio's protocols with httptools, which the server uses too: a part of a body goes from the socket to `Sink.feed` in
one call, with the time at which it was read, and no task is woken for it (DESIGN.md has the other clients' cost). It
does what a bench needs: POST and GET, TLS, kept connections. No redirects, no proxies; and no retries, since a retry
would hide what is to be counted.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast
from urllib.parse import urlsplit

import httptools

from octavo_runtime.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping


class Sink(Protocol):
    """Takes in a response."""

    def begin(self, status: int) -> None: ...
    def feed(self, data: bytes, now: float) -> None: ...


class HttpClient:
    """Requests to one server. Opens as many connections as there are requests at once, and keeps them."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        """`url` is the server's, without the API's path: http://host:port[/prefix]. Raises `InvalidArgument`."""
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise InvalidArgument(f"URL {url!r} is not like http://host:port")
        self._host = parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._prefix = parts.path.rstrip("/").removesuffix("/v1")
        self._head = "".join(f"{name}: {value}\r\n" for name, value in {"Host": parts.netloc, **headers}.items())
        self._idle: list[_Connection] = []

    def encode(self, method: str, path: str, body: bytes = b"") -> bytes:
        """A whole request. To be made before the clock runs."""
        kind = "Content-Type: application/json\r\n" if body else ""
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\n{self._head}{kind}Content-Length: {len(body)}\r\n\r\n"
        return head.encode() + body

    async def send(self, request: bytes, sink: Sink) -> None:
        """Send `request` and return when its response is over. `OSError`: no connection."""
        connection = self._take_idle() or await self._connect()
        try:
            reusable = await connection.exchange(request, sink)
        except BaseException:
            connection.close()
            raise
        if reusable:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _take_idle(self) -> _Connection | None:
        while self._idle:
            if (connection := self._idle.pop()).open:
                return connection
        return None

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._host, self._port, ssl=self._tls)
        return connection


class _Connection(asyncio.Protocol):
    """One exchange after the other."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._sink: Sink | None = None
        self._over: asyncio.Future[bool] | None = None
        self._now = 0.0

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    async def exchange(self, request: bytes, sink: Sink) -> bool:
        """Whether the connection can be used again."""
        assert self._transport is not None, "connected"
        self._sink = sink
        self._parser = httptools.HttpResponseParser(self)
        self._over = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._over

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    # asyncio calls these.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's has another base class

    def data_received(self, data: bytes) -> None:
        self._now = time.perf_counter()
        if self._parser is None:
            self.close()  # nobody has asked for anything
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._end(reusable=False)

    # httptools calls these.

    def on_headers_complete(self) -> None:
        if self._sink is not None and self._parser is not None:
            self._sink.begin(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        if self._sink is not None:
            self._sink.feed(data, self._now)

    def on_message_complete(self) -> None:
        if self._parser is not None and self._parser.get_status_code() >= 200:
            self._end(reusable=self._parser.should_keep_alive())

    def _end(self, *, reusable: bool) -> None:
        self._sink = None
        if self._over is not None and not self._over.done():
            self._over.set_result(reusable)


class _Whole:
    """A response's body as one. Implements `Sink`."""

    def __init__(self) -> None:
        self.status = 0
        self.body = b""

    def begin(self, status: int) -> None:
        self.status = status

    def feed(self, data: bytes, now: float) -> None:  # noqa: ARG002  a sink is told the time
        self.body += data


async def fetch(client: HttpClient, path: str, seconds: float) -> tuple[int, bytes]:
    """GET `path`: status (0 without a response within `seconds`) and body."""
    whole = _Whole()
    with suppress(OSError, TimeoutError):
        async with asyncio.timeout(seconds):
            await client.send(client.encode("GET", path), whole)
    return whole.status, whole.body

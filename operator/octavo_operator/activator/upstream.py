"""The way to the replicas: open while a connection succeeds, and tried again and again while somebody waits for it.

A request is sent when its connection stands, and not a second time, but for two cases. A replica that answers that it
is shutting down, or still loads, has not begun with it (runtime/octavo_runtime/errors.py), so it is held again. And one
that breaks off without an answer may have ended with the connection in its backlog, so it is held again, but only once:
it may be the request that ends replicas.
"""

import asyncio
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Final, Self

import aiohttp
from yarl import URL

from octavo_operator.activator.metrics import Metrics

RETRY_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 1.0
NOT_BEGUN: Final = frozenset({"server_shutting_down", "model_loading"})
"""Codes of the runtime (tests/contract holds both equal)."""
BROKEN_OFF: Final = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError)
"""Before there was any answer."""
_SMALL: Final = 4096
_NO_CONNECTION: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
_HEADERS_OF_OURS: Final = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")
"""What aiohttp would add where the client has said nothing."""


class NoReplicaError(Exception):
    """Nobody has begun with the request."""


@dataclass(frozen=True, slots=True)
class Question:
    """A request as it is passed on. `path` has its query, encoded as it came, and begins with a slash."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes | None


class Upstream:
    """The Service of the replicas."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        self._url = URL(url)
        self._metrics = metrics
        self._open = asyncio.Event()
        self._open.set()
        self._lost_at = 0.0
        self._waiting = 0
        self._knocking: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """A connection for each request: one that is kept could be closed by the other side in the very moment."""
        connector = aiohttp.TCPConnector(limit=0, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS)
        tracing = aiohttp.TraceConfig()
        tracing.on_connection_create_end.append(_tell_taken)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=timeout, auto_decompress=False, trace_configs=[tracing]
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes the connections."""
        if self._knocking is not None:
            self._knocking.cancel()
        await self._session.close()

    async def ask(self, question: Question, taken: Callable[[], None]) -> aiohttp.ClientResponse:
        """A replica's answer, once its head is there; `taken` is called when the connection stands.

        NoReplicaError: nobody was there. aiohttp's other errors: it broke.
        """
        try:
            answer = await self._session.request(
                question.method,
                URL(f"{self._url.origin()}{question.path}", encoded=True),
                headers=question.headers,
                data=question.body,
                skip_auto_headers=_HEADERS_OF_OURS,
                allow_redirects=False,
                trace_request_ctx=taken,
            )
        except _NO_CONNECTION as error:
            raise NoReplicaError(str(error)) from error
        if answer.status == 503 and await _has_not_begun(answer):
            answer.close()
            raise NoReplicaError("the replica has not begun")
        return answer

    def lost(self) -> None:
        """Nobody was there: from now on one connection is tried for all, not one for each that waits."""
        if self._open.is_set():
            self._open.clear()
            self._lost_at = time.monotonic()

    async def opened(self) -> None:
        """Returns when there is a replica, as far as is known."""
        self._waiting += 1
        try:
            if not self._open.is_set() and (self._knocking is None or self._knocking.done()):
                self._knocking = asyncio.create_task(self._knock(), name="knock")
            await self._open.wait()
        finally:
            self._waiting -= 1

    async def _knock(self) -> None:
        """Tries while somebody waits. Without anybody it is unknown again, and the next request finds out."""
        while self._waiting:
            await asyncio.sleep(RETRY_SECONDS)
            if await self._answers():
                self._metrics.wake_seconds.observe(time.monotonic() - self._lost_at)
                break
        self._open.set()

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, writer = await asyncio.open_connection(self._url.host, self._url.port)
        except (OSError, TimeoutError):
            return False
        writer.close()
        return True


async def _tell_taken(
    _: aiohttp.ClientSession, context: SimpleNamespace, __: aiohttp.TraceConnectionCreateEndParams
) -> None:
    context.trace_request_ctx()


async def _has_not_begun(answer: aiohttp.ClientResponse) -> bool:
    """Whether a short JSON answer has such a code; its body is kept for the client."""
    length = answer.content_length
    if answer.content_type != "application/json" or length is None or length > _SMALL:
        return False
    try:
        return bool(json.loads(await answer.read())["error"]["code"] in NOT_BEGUN)
    except (ValueError, TypeError, KeyError):
        return False

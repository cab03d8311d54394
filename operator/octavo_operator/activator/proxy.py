"""What clients meet while there is no replica to lead them to: their requests are held, then passed on as they are.

    POST to /v1     held until a replica takes it: up to a number, a size and a time; then 503 with Retry-After
    all others      passed on if a replica is there; they wake nobody. /v1/models, /livez and /readyz are answered here
                    otherwise, so that listing models and a gateway's health check do not cost a GPU

Answers are passed on piece by piece. A client that leaves is gone for the replica too, and a replica that breaks off
breaks the client's connection: a stream that was cut never looks like one that ended.
"""

import asyncio
import json
import logging
import time
from typing import Final

import aiohttp
from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from octavo_operator.activator.gate import Gate, Passage
from octavo_operator.activator.ledger import LARGEST_BODY, FullError, Ledger, Place
from octavo_operator.activator.metrics import Metrics
from octavo_operator.activator.upstream import BROKEN_OFF, NoReplicaError, Question, Upstream
from octavo_operator.core import names
from octavo_operator.logs import kv

_HOP_BY_HOP: Final = frozenset(
    name.lower()
    for name in (
        *(hdrs.CONNECTION, hdrs.KEEP_ALIVE, hdrs.TE, hdrs.TRAILER, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE, hdrs.EXPECT),
        *(hdrs.PROXY_AUTHENTICATE, hdrs.PROXY_AUTHORIZATION, "Proxy-Connection"),
    )
)
_RETRY_SECONDS: Final = 10

logger = logging.getLogger(__name__)


class Proxy:
    """The handler of all requests of clients. `model` is the name that they ask for."""

    def __init__(
        self, upstream: Upstream, gate: Gate, ledger: Ledger, metrics: Metrics, *, hold_timeout: float, model: str
    ) -> None:
        self._upstream = upstream
        self._gate = gate
        self._ledger = ledger
        self._metrics = metrics
        self._hold_timeout = hold_timeout
        self._model = model
        self._born = int(time.time())

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """One request, from its head to the last byte of its answer."""
        passage = self._gate.passage()
        try:
            outcome, response = await self._answer(request, passage)
        except asyncio.CancelledError:
            self._count("cancelled")
            raise
        finally:
            passage.leave()
        self._count(outcome)
        return response

    async def _answer(self, request: web.Request, passage: Passage) -> tuple[str, web.StreamResponse]:
        wakes = request.method == hdrs.METH_POST and request.path.startswith("/v1/")
        try:
            answer = await (
                self._hold(request, passage) if wakes else self._upstream.ask(_question(request, None), _nothing)
            )
        except NoReplicaError:
            return "own", self._own(request)
        except FullError as error:
            return "rejected", _unavailable(str(error), "too_many_held")
        except web.HTTPRequestEntityTooLarge:
            return "rejected", _error(413, f"body: more than {LARGEST_BODY} bytes", "body_too_large", param="body")
        except TimeoutError:
            words = f"no replica was there within {self._hold_timeout:g} s"
            return "expired", _unavailable(words, "no_replica_in_time")
        except (aiohttp.ClientError, OSError) as error:
            return "broken", _error(502, f"the replica broke off before it answered: {error}", "replica_failed")
        async with answer:
            return await _relay(request, answer)

    async def _hold(self, request: web.Request, passage: Passage) -> aiohttp.ClientResponse:
        """The answer of the replica that takes the request. TimeoutError, FullError: none does."""
        began, body, broken_off = time.monotonic(), None, False
        size = LARGEST_BODY if request.content_length is None else request.content_length
        if size > LARGEST_BODY:
            raise web.HTTPRequestEntityTooLarge(LARGEST_BODY, size)
        deadline = asyncio.get_running_loop().time() + self._hold_timeout
        while True:
            with self._ledger.hold(size) as place:
                async with asyncio.timeout_at(deadline) as patience:

                    def taken(place: Place = place, patience: asyncio.Timeout = patience) -> None:
                        place.leave()
                        patience.reschedule(None)
                        self._metrics.hold_seconds.observe(time.monotonic() - began)

                    body = await request.read() if body is None else body
                    place.shrink(len(body))
                    while place.held:
                        await self._upstream.opened()
                        await passage.enter()
                        try:
                            return await self._upstream.ask(_question(request, body), taken)
                        except NoReplicaError:
                            pass
                        except BROKEN_OFF:
                            if broken_off:
                                raise
                            broken_off = True
                        passage.leave()
                        self._gate.shut()
                        self._upstream.lost()

    def _own(self, request: web.Request) -> web.Response:
        """What is said without a replica to those who do not wake one."""
        if request.path in (names.PATH_LIVE, names.PATH_READY):
            return web.json_response({"status": "ok"})
        about = {"id": self._model, "object": "model", "created": self._born, "owned_by": "octavo"}
        if request.path == "/v1/models":
            return web.json_response({"object": "list", "data": [about]})
        if request.path == f"/v1/models/{self._model}":
            return web.json_response(about)
        return _unavailable("no replica is awake, and only a POST to /v1 wakes one", "asleep")

    def _count(self, outcome: str) -> None:
        self._metrics.requests.labels(outcome=outcome).inc()


async def _relay(request: web.Request, answer: aiohttp.ClientResponse) -> tuple[str, web.StreamResponse]:
    """The answer piece by piece. Its connection is not kept: the next request may have a shorter way."""
    response = web.StreamResponse(status=answer.status, reason=answer.reason, headers=_end_to_end(answer.headers))
    response.force_close()
    await response.prepare(request)
    while True:
        try:
            piece = await answer.content.readany()
        except (aiohttp.ClientError, OSError) as error:
            logger.warning("a replica broke off", extra=kv(path=request.path, error=error or type(error).__name__))
            if request.transport is not None:
                request.transport.abort()
            return "broken", response
        if not piece:
            break
        await response.write(piece)
    await response.write_eof()
    return "passed", response


def _question(request: web.Request, body: bytes | None) -> Question:
    return Question(request.method, _target(request.rel_url), _end_to_end(request.headers, hdrs.CONTENT_LENGTH), body)


def _target(url: URL) -> str:
    """The path and the query alone: a client may name a host there, but not one that we connect to."""
    query = f"?{url.raw_query_string}" if url.raw_query_string else ""
    return f"/{url.raw_path.removeprefix('/')}{query}"


def _end_to_end(headers: CIMultiDictProxy[str], *without: str) -> CIMultiDict[str]:
    """The headers without those that are about one connection (RFC 9110, 7.6.1)."""
    named = {name.strip().lower() for name in headers.get(hdrs.CONNECTION, "").split(",")}
    gone = _HOP_BY_HOP | named | {name.lower() for name in without}
    return CIMultiDict((name, value) for name, value in headers.items() if name.lower() not in gone)


def _nothing() -> None:
    """Nobody is held who could be taken."""


def _unavailable(message: str, code: str) -> web.Response:
    response = _error(503, message, code)
    response.headers[hdrs.RETRY_AFTER] = str(_RETRY_SECONDS)
    return response


def _error(status: int, message: str, code: str, param: str | None = None) -> web.Response:
    """In OpenAI's form, as the runtime has it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    response = web.Response(status=status, text=json.dumps(body), content_type="application/json")
    response.force_close()
    return response

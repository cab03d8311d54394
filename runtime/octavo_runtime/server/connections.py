"""Bounds how long a client may take to say what it wants, how long the head of it may be, and how many may be at it.

uvicorn waits for ever for the rest of a request. A peer that sends a byte now and then would hold its connection, and
thousands of such peers the server.

Between two requests it is the other way round: who closes a kept connection first must be the client. A gateway keeps
connections to us for its next requests, and one that goes out in the moment in which we close is lost: its client gets
a 502, since a POST must not be sent twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from octavo_runtime.errors import RequestError
from octavo_runtime.server.errors import error_body

if TYPE_CHECKING:
    import asyncio

REQUEST_WAIT: Final = 30.0  # seconds for a request to arrive whole, from the connection's start or its own first byte
MAX_HEAD: Final = 64 << 10  # bytes of a request line and its headers
MAX_INCOMPLETE: Final = 1000  # connections without a whole request; one more, and the most silent one is closed
KEEP_ALIVE: Final = 3630  # seconds between two requests; Envoy keeps a connection for an hour, others for less


class PatientProtocol(HttpToolsProtocol):
    """One connection; uvicorn makes it. While we wait for a request, or the rest of one, `deadline` is a timer."""

    deadline: asyncio.TimerHandle | None = None
    _in_head = False
    _head_size = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as in uvicorn
        super().connection_made(transport)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.deadline is None and self.cycle is not None and self.cycle.response_complete:
            self._wait()
        super().data_received(data)
        self._head_size += len(data) if self._in_head else 0
        if self._head_size > MAX_HEAD:
            self._refuse(RequestError(f"headers: more than {MAX_HEAD} bytes", code="headers_too_large", status=431))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._in_head, self._head_size = False, 0
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._stop_waiting()
        super().on_message_complete()

    def _wait(self) -> None:
        self.deadline = self.loop.call_later(REQUEST_WAIT, self._give_up)
        if len(self.connections) > MAX_INCOMPLETE:
            waiting = [peer for peer in self.connections if isinstance(peer, PatientProtocol) and peer.waits_since]
            if len(waiting) > MAX_INCOMPLETE:
                min(waiting, key=_waits_since)._give_up()  # noqa: SLF001  one of us

    @property
    def waits_since(self) -> float:
        """When we began to wait for this request or the next one, by the loop's clock; 0 while we answer."""
        if self.deadline is not None:
            return self.deadline.when() - REQUEST_WAIT
        kept = self.timeout_keep_alive_task
        return kept.when() - self.timeout_keep_alive if kept is not None else 0.0

    def _stop_waiting(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _give_up(self) -> None:
        """Say why, unless nothing has come: a client would take the words for the answer to its next request."""
        body_missing = self.cycle is not None and not self.cycle.response_complete
        if self._in_head or body_missing:
            message = f"the request did not arrive whole within {REQUEST_WAIT:g} s"
            self._refuse(RequestError(message, code="request_timeout", status=408))
        else:
            self._close()

    def _refuse(self, error: RequestError) -> None:
        if self.cycle is None or self.cycle.response_complete or not self.cycle.response_started:
            body = error_body(error)
            head = f"HTTP/1.1 {error.status} \r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n"
            self.transport.write(head.encode() + b"connection: close\r\n\r\n" + body)
        self._close()

    def _close(self) -> None:
        self._stop_waiting()
        self._head_size = 0
        self.transport.close()


def _waits_since(connection: PatientProtocol) -> float:
    return connection.waits_since

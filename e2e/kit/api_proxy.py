"""A proxy in front of an API server that sees each call of one client, and can spoil it.

    proxy = ApiProxy(kubeconfig, folder)
    proxy.fault = lambda call: Fault(status=503) if call.resource == "services" else None
    start_the_client(proxy.kubeconfig)

Plain HTTP on loopback towards the client; the client's own token is handed on.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import struct
import threading
import time
from base64 import b64decode
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, urlsplit

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_HOP_BY_HOP: Final = {"connection", "transfer-encoding", "keep-alive", "host", "content-length"}
_SECONDS: Final = 600


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API server."""

    verb: str
    path: str
    body: bytes

    @property
    def resource(self) -> str:
        """The plural, as in a path: deployments."""
        steps = urlsplit(self.path).path.strip("/").split("/")
        steps = steps[2:] if steps[0] == "api" else steps[3:]
        return (steps[2] if steps[:1] == ["namespaces"] and len(steps) > 2 else steps[0]) if steps else ""

    @property
    def status(self) -> bool:
        """Whether it is about the status subresource."""
        return urlsplit(self.path).path.endswith("/status")

    @property
    def watch(self) -> bool:
        """Whether it is a watch, which lasts for minutes."""
        return parse_qs(urlsplit(self.path).query).get("watch", ["false"])[0] in ("true", "1")

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.verb != "GET"


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one call. `before` and `after` run around what the API server sees of it."""

    delay: float = 0.0
    forward: bool = True
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    reset: bool = False
    truncate: bool = False
    stale: bool = False
    before: Callable[[], None] | None = None
    after: Callable[[], None] | None = None
    events: Callable[[Iterator[bytes]], Iterator[bytes]] | None = None


def well(_call: Call) -> None:
    """Nothing goes wrong."""


def _unnoticed(_call: Call, _status: int) -> None:
    """Nobody listens."""


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


class ApiProxy(ThreadingHTTPServer):
    """`kubeconfig` leads to it; `fault` says what goes wrong with a call, before it is sent on; `answered` is told the
    API server's status of each call that was.
    """

    daemon_threads = True

    def __init__(self, kubeconfig: Path, folder: Path, name: str = "proxy") -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.fault: Callable[[Call], Fault | None] = well
        self.answered: Callable[[Call, int], None] = _unnoticed
        self.lists: dict[str, _Answer] = {}
        self._open: set[socket.socket] = set()
        config = yaml.safe_load(kubeconfig.read_text())
        cluster = config["clusters"][0]["cluster"]
        self._upstream = urlsplit(cluster["server"])
        self._trust = ssl.create_default_context(cadata=b64decode(cluster["certificate-authority-data"]).decode())
        config["clusters"][0]["cluster"] = {"server": f"http://127.0.0.1:{self.server_address[1]}"}
        self.kubeconfig = folder / f"{name}.kubeconfig"
        self.kubeconfig.write_text(yaml.safe_dump(config))
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def connect(self) -> http.client.HTTPSConnection:
        """A connection to the API server itself."""
        host, port = self._upstream.hostname or "", self._upstream.port
        return http.client.HTTPSConnection(host, port, context=self._trust, timeout=_SECONDS)

    @contextlib.contextmanager
    def outage(self) -> Iterator[None]:
        """Nobody is there: connections are refused, and open ones end. Then the same address answers again."""
        self.shutdown()
        self.server_close()
        for connection in tuple(self._open):
            with contextlib.suppress(OSError):  # it has just ended by itself
                connection.shutdown(socket.SHUT_RDWR)
        try:
            yield
        finally:
            self.socket = socket.socket(self.address_family, self.socket_type)
            self.server_bind()
            self.server_activate()
            threading.Thread(target=self.serve_forever, daemon=True).start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remembers the connection."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forgets it."""
        self._open.discard(request)
        super().shutdown_request(request)

    def close(self) -> None:
        """Ends the proxy; open watches end with the process."""
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """A client that was killed leaves broken connections: that is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: ApiProxy

    def __getattr__(self, name: str) -> Callable[[], None]:
        if name.startswith("do_"):
            return self._handle
        raise AttributeError(name)

    def log_message(self, *_: object) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        call = Call(self.command, self.path, body)
        fault = self.server.fault(call) or Fault()
        if fault.before:
            fault.before()
        time.sleep(fault.delay)
        if not fault.forward:
            self._spoil(fault, None)
            return
        with contextlib.closing(self.server.connect()) as upstream:
            try:
                self._forward(call, fault, upstream)
            except (OSError, http.client.HTTPException):
                self.close_connection = True

    def _forward(self, call: Call, fault: Fault, upstream: http.client.HTTPSConnection) -> None:
        headers = {key: value for key, value in self.headers.items() if key.lower() not in _HOP_BY_HOP}
        upstream.request(call.verb, call.path, call.body, headers)
        response = upstream.getresponse()
        self.server.answered(call, response.status)
        kept = [(key, value) for key, value in response.getheaders() if key.lower() not in _HOP_BY_HOP]
        if call.watch and response.status == 200 and fault == Fault(events=fault.events):
            self._stream(
                response.status, kept, _lines(response) if fault.events is None else fault.events(_lines(response))
            )
            return
        answer = _Answer(response.status, kept, response.read())
        if fault.after:
            fault.after()
        self._spoil(fault, self._remembered(call, answer, stale=fault.stale))

    def _remembered(self, call: Call, answer: _Answer, *, stale: bool) -> _Answer:
        """The answer, or for a stale list what the same path answered first."""
        if call.verb != "GET":
            return answer
        first = self.server.lists.setdefault(call.path, answer)
        return first if stale else answer

    def _spoil(self, fault: Fault, answer: _Answer | None) -> None:
        if fault.reset:
            self._break()
        elif fault.status is not None or answer is None:
            code = fault.status or 500
            message = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "message": "a fault"}
            self._send(
                _Answer(
                    code, [("Content-Type", "application/json"), *fault.headers.items()], json.dumps(message).encode()
                )
            )
        else:
            self._send(answer, cut=fault.truncate)

    def _send(self, answer: _Answer, *, cut: bool = False) -> None:
        self.send_response(answer.status)
        for key, value in answer.headers:
            self.send_header(key, value)
        body = answer.body[: len(answer.body) // 2] if cut else answer.body
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _break(self) -> None:
        """Ends the connection by a reset, as a peer that vanished does."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def _stream(self, status: int, headers: list[tuple[str, str]], lines: Iterator[bytes]) -> None:
        self.send_response(status)
        for key, value in headers:
            self.send_header(key, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for line in lines:
            self.wfile.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


def _lines(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The events of a watch, one by one."""
    while line := response.readline():
        yield line

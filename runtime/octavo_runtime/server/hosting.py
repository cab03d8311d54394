"""What any `octavo serve` is to the system: a listening socket, an HTTP server on it, two signals."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn

from octavo_runtime.errors import InvalidArgument
from octavo_runtime.server.connections import KEEP_ALIVE, PatientProtocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp

    from octavo_runtime.config import ServeConfig

logger = logging.getLogger(__name__)

STALLED_CLIENT: Final = 120  # seconds after which the kernel gives up on a peer that takes nothing
CLOSE_WAIT: Final = 5  # seconds for the last connections to close


@contextmanager
def listen(config: ServeConfig) -> Iterator[socket.socket]:
    """A listening socket. Raises `InvalidArgument` when the address is taken or not ours."""
    try:
        listener = socket.create_server((config.host, config.port), backlog=2048)
    except OSError as error:
        raise InvalidArgument(f"--host {config.host} --port {config.port}: {error.strerror or error}") from error
    with listener:
        _cut_off_dead_peers(listener)
        yield listener


def _cut_off_dead_peers(listener: socket.socket) -> None:
    """Let the kernel close connections to peers that have vanished or take nothing for `STALLED_CLIENT` seconds.

    Their requests are then aborted like any other whose client has gone. Accepted sockets inherit these options.
    """
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, STALLED_CLIENT // 2)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, STALLED_CLIENT // 8)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_CLIENT * 1000)


async def first(*futures: asyncio.Future[Any]) -> None:
    """Wait until one of them is done."""
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class Signals:
    """The first SIGTERM or SIGINT asks for a drain, the second for an end without one."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.received: asyncio.Future[int] = loop.create_future()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        if self.received.done():
            logger.warning("second signal: ending now")
            os._exit(128 + number)  # the kernel ends the engine with this process
        self.received.set_result(number)


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handlers: it would stop listening at once."""

    def __init__(self, app: ASGIApp) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=PatientProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE,
                timeout_graceful_shutdown=CLOSE_WAIT,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

"""The API process from its first second to its exit status: port, engine, tokenizer, ready, drain, end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import uvicorn
import uvloop

from octavo_runtime.engine.client import EngineClient
from octavo_runtime.errors import InvalidArgument, StartError
from octavo_runtime.logs import configure_logging
from octavo_runtime.metrics import RequestMetrics
from octavo_runtime.model.info import read_model_info
from octavo_runtime.server.app import create_app
from octavo_runtime.server.connections import PatientProtocol
from octavo_runtime.server.lifecycle import Lifecycle
from octavo_runtime.server.service import Ready, Service
from octavo_runtime.termination import EXIT_FAILED, EXIT_USAGE, write_termination_message
from octavo_runtime.text.chat import compile_template
from octavo_runtime.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)

STALLED_CLIENT: Final = 120  # seconds after which the kernel gives up on a peer that takes nothing
CLOSE_WAIT: Final = 5  # seconds for the last connections to close


def serve(config: ServeConfig) -> int:
    """Serve until a signal or a failure; return the exit status."""
    configure_logging()
    try:
        with listen(config) as listener:
            uvloop.run(_serve(config, listener))
    except StartError as error:
        logger.error("%s: %s", error.reason, error)  # noqa: TRY400  a message for users, who need no traceback
        write_termination_message(error.reason, str(error))
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    return 0


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


async def _serve(config: ServeConfig, listener: socket.socket) -> None:
    """Raises `StartError` when the model cannot be loaded, and when the engine dies too often later."""
    requests = RequestMetrics()
    lifecycle = Lifecycle()
    engine = EngineClient(config, requests)
    service = Service(config, engine, lifecycle, requests)
    server = _Server(service, max_body_size=config.max_body_size)
    signals = _Signals()
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    readying = asyncio.create_task(_keep_ready(config, service))
    logger.info("listening on %s port %d", config.host, listener.getsockname()[1])
    try:
        await _until_end(config, service, signals, readying)
    finally:
        readying.cancel()
        server.should_exit = True
        await serving
        await engine.supervisor.close()


async def _keep_ready(config: ServeConfig, service: Service) -> None:
    """Fetch the model if it is remote; load the tokenizer while the engine loads the model; later, follow the engine's
    restarts. Raises `StartError`.
    """
    model = await service.fetch.run(config)
    supervisor = service.engine.supervisor
    supervisor.start(model)
    tokenizer = await asyncio.to_thread(_load_tokenizer, model)
    while True:
        lost = supervisor.lost
        limits = await asyncio.shield(supervisor.started)
        service.ready = Ready(tokenizer, limits)
        logger.info(
            "ready after %.1f s: %s, %d tokens per sequence, %d KV blocks of %d tokens",
            service.uptime(), service.model_name, limits.max_model_len, limits.num_blocks, limits.block_size,
        )  # fmt: skip
        await asyncio.shield(lost)
        service.ready = None


def _load_tokenizer(model: Path) -> Tokenizer:
    tokenizer = load_tokenizer(model, read_model_info(model))
    if tokenizer.chat_template is not None:
        compile_template(tokenizer.chat_template)  # a broken one is found now
    return tokenizer


async def _until_end(config: ServeConfig, service: Service, signals: _Signals, readying: asyncio.Task[None]) -> None:
    """Wait for a signal, or until the model cannot be served any more; end the requests accordingly."""
    engine, died = service.engine, service.engine.supervisor.died
    await _first(readying, signals.received, died)
    if readying.done():
        readying.result()
    if signals.received.done() and not died.done():
        announced = service.ready is not None and signals.received.result() == signal.SIGTERM
        delay = config.drain_delay if announced else 0.0  # nobody sends requests to a pod that was never ready
        drain = asyncio.create_task(service.lifecycle.drain(engine, delay=delay, timeout=config.drain_timeout))
        await _first(drain, died)
        drain.cancel()
    if died.done():
        await service.lifecycle.collapse(engine)
        raise died.result()


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


class _Signals:
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


class _Server(uvicorn.Server):
    """uvicorn without its own signal handlers: it would stop listening at once."""

    def __init__(self, service: Service, *, max_body_size: int) -> None:
        super().__init__(
            uvicorn.Config(
                create_app(service, max_body_size=max_body_size),
                http=PatientProtocol,
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=CLOSE_WAIT,
            )
        )

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

"""The API process from its first second to its exit status: port, engine, tokenizer, ready, drain, end."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING

import uvloop

from octavo_runtime.engine.client import EngineClient
from octavo_runtime.errors import InvalidArgument, StartError
from octavo_runtime.logs import configure_logging
from octavo_runtime.metrics import RequestMetrics
from octavo_runtime.model.info import read_model_info
from octavo_runtime.server.app import create_app
from octavo_runtime.server.following import follow
from octavo_runtime.server.hosting import HttpServer, Signals, first, listen
from octavo_runtime.server.lifecycle import Lifecycle
from octavo_runtime.server.service import Ready, Service
from octavo_runtime.termination import EXIT_FAILED, EXIT_USAGE, write_termination_message
from octavo_runtime.text.chat import compile_template
from octavo_runtime.text.tokenizer import load_tokenizer

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.text.tokenizer import Tokenizer

logger = logging.getLogger(__name__)


def serve(config: ServeConfig) -> int:
    """Serve until a signal or a failure; return the exit status."""
    configure_logging()
    try:
        with listen(config) as listener:
            uvloop.run(follow(config, listener) if config.node_rank else _serve(config, listener))
    except StartError as error:
        logger.error("%s: %s", error.reason, error)  # noqa: TRY400  a message for users, who need no traceback
        write_termination_message(error.reason, str(error))
        return EXIT_USAGE if isinstance(error, InvalidArgument) else EXIT_FAILED
    return 0


async def _serve(config: ServeConfig, listener: socket.socket) -> None:
    """Raises `StartError` when the model cannot be loaded, and when the engine dies too often later."""
    requests = RequestMetrics()
    lifecycle = Lifecycle()
    engine = EngineClient(config, requests)
    service = Service(config, engine, lifecycle, requests)
    server = HttpServer(create_app(service, max_body_size=config.max_body_size))
    signals = Signals()
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


async def _until_end(config: ServeConfig, service: Service, signals: Signals, readying: asyncio.Task[None]) -> None:
    """Wait for a signal, or until the model cannot be served any more; end the requests accordingly."""
    engine, died = service.engine, service.engine.supervisor.died
    await first(readying, signals.received, died)
    if readying.done():
        readying.result()
    if signals.received.done() and not died.done():
        announced = service.ready is not None and signals.received.result() == signal.SIGTERM
        delay = config.drain_delay if announced else 0.0  # nobody sends requests to a pod that was never ready
        drain = asyncio.create_task(service.lifecycle.drain(engine, delay=delay, timeout=config.drain_timeout))
        await first(drain, died)
        drain.cancel()
    if died.done():
        await service.lifecycle.collapse(engine)
        raise died.result()

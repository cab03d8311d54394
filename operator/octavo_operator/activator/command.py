"""`octavo-operator activate`: the life of an activator.

SIGTERM     5 s                             --drain-timeout
|-----------|-------------------------------|
unready     no new connections              the rest is cut
            |<- exit as soon as nothing is held or passed on ->|
"""

import argparse
import asyncio
import logging
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from octavo_operator.activator.control import ENDING, make_control
from octavo_operator.activator.gate import Gate
from octavo_operator.activator.ledger import LARGEST_BODY, Ledger
from octavo_operator.activator.metrics import Metrics
from octavo_operator.activator.proxy import Proxy
from octavo_operator.activator.upstream import Upstream
from octavo_operator.core import names
from octavo_operator.logs import kv

logger = logging.getLogger(__name__)


async def activate(options: argparse.Namespace) -> None:
    """Serves until SIGTERM, then lets what is under way end."""
    asked_to_end = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, asked_to_end.set)
    async with running(options) as control:
        logger.info("activator serves", extra=kv(port=options.port, upstream=options.upstream))
        await asked_to_end.wait()
        control[ENDING].append(True)
        await asyncio.sleep(names.DRAIN_DELAY_SECONDS)


@asynccontextmanager
async def running(options: argparse.Namespace) -> AsyncIterator[web.Application]:
    """Both ports, in reverse order at the end: the operator asks as long as anything is held."""
    metrics = Metrics()
    ledger = Ledger(options.max_held, boot=uuid.uuid4().hex[:8])
    control = make_control(ledger, metrics)
    async with Upstream(options.upstream, metrics) as upstream:
        gate = Gate(options.share)
        proxy = Proxy(upstream, gate, ledger, metrics, hold_timeout=options.hold_timeout, model=options.model)
        clients = web.Application(client_max_size=LARGEST_BODY)
        clients.router.add_route("*", "/{path:.*}", proxy.handle)
        async with (
            _site(control, options.host, options.control_port, patience=1.0),
            _site(clients, options.host, options.port, patience=options.drain_timeout),
        ):
            yield control


@asynccontextmanager
async def _site(app: web.Application, host: str | None, port: int, *, patience: float) -> AsyncIterator[None]:
    """A client that leaves ends its handler, and with it the request to the replica. Bodies stay as they came."""
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, auto_decompress=False, shutdown_timeout=patience
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        yield
    finally:
        await runner.cleanup()

"""`octavo serve --node-rank N`: a node that computes for its leader. It has the probes of a server, and no API.

SIGTERM     until the leader hangs up, at most drain delay and drain timeout
|-----------|
unready     computes on: the leader, which has the same signal, still has answers under way
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from octavo_runtime import metrics
from octavo_runtime.errors import LeaderGone
from octavo_runtime.model.identity import fingerprint
from octavo_runtime.model.info import read_model_info
from octavo_runtime.parallel.follower import Follower
from octavo_runtime.parallel.joining import join_group
from octavo_runtime.server.hosting import HttpServer, Signals, first
from octavo_runtime.server.lifecycle import LAST_EVENTS_WAIT
from octavo_runtime.server.probes import verdict
from octavo_runtime.sources.child import ModelFetch

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from pathlib import Path

    from prometheus_client.metrics_core import Metric
    from starlette.requests import Request

    from octavo_runtime.config import ServeConfig

logger = logging.getLogger(__name__)

_HANG_UP_WAIT: Final = 5.0  # seconds beyond the leader's own drain, for its engine to end


class Node:
    """What this node is about; what the probes tell."""

    def __init__(self, config: ServeConfig) -> None:
        self.fetch = ModelFetch()
        self.follower: Follower | None = None  # once all nodes are there
        self.draining = False
        self._config = config
        self._since = time.monotonic()

    async def run(self) -> None:
        """Take part until it is over. Raises `StartError`, `LeaderGone` among them."""
        model = await self.fetch.run(self._config)
        identity = await asyncio.to_thread(_identify, model)
        link = await join_group(self._config, identity)
        logger.info("all %d nodes are there; loading", self._config.nodes)
        self.follower = Follower(self._with(model), link)
        await self.follower.run()

    @property
    def loaded(self) -> bool:
        return self.follower is not None and self.follower.loaded

    def startup(self) -> dict[str, object]:
        """How far the start is."""
        progress = 0.0
        if self.loaded:
            phase, progress = "ready", 1.0
        elif self.follower is not None:
            phase = "weights"
        elif self.fetch.meter is not None:
            phase, progress = "fetch", self.fetch.meter.share
        else:
            phase = "join"
        seconds = round(time.monotonic() - self._since, 3)
        return {"phase": phase, "progress": round(progress, 4), "seconds": seconds, **self.fetch.facts()}

    def unready(self) -> str | None:
        if self.draining:
            return "draining"
        return None if self.loaded else f"this node is not ready (phase: {self.startup()['phase']})"

    def _with(self, model: Path) -> ServeConfig:
        return replace(self._config, model=model)


class NodeCollector(Collector):
    """A node's metrics. Requests and the KV cache are the leader's."""

    def __init__(self, node: Node, model_name: str) -> None:
        self._node = node
        self._model_name = model_name

    def collect(self) -> Iterator[Metric]:
        follower = self._node.follower
        for name, text, value in (
            ("octavo_node_ready", "1 once this node's ranks have joined and loaded.", self._node.loaded),
            ("octavo_draining", "1 after SIGTERM.", self._node.draining),
        ):
            gauge = GaugeMetricFamily(name, text, labels=["model_name"])
            gauge.add_metric([self._model_name], float(value))
            yield gauge
        counter = CounterMetricFamily(
            "octavo_node_messages", "Steps and other words of the leader for this node's ranks.", labels=["model_name"]
        )
        counter.add_metric([self._model_name], follower.messages if follower else 0)
        yield counter


async def follow(config: ServeConfig, listener: socket.socket) -> None:
    """Raises `StartError` when this node cannot join or load, and when leader or a rank are lost later."""
    node, signals = Node(config), Signals()
    server = HttpServer(_make_app(node, config.served_model_name or config.model.name))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    computing = asyncio.create_task(node.run())
    logger.info("listening on %s port %d", config.host, listener.getsockname()[1])
    try:
        await first(computing, signals.received)
        if signals.received.done() and node.follower is not None:
            await _drain(config, node, computing)
        elif computing.done():
            computing.result()
    finally:
        computing.cancel()
        await asyncio.wait([computing])
        server.should_exit = True
        await serving


async def _drain(config: ServeConfig, node: Node, computing: asyncio.Task[None]) -> None:
    """Compute on until the leader hangs up. Raises `EngineFailed` when a rank is lost meanwhile."""
    node.draining = True
    seconds = config.drain_delay + config.drain_timeout + LAST_EVENTS_WAIT + _HANG_UP_WAIT
    logger.info("draining: computing until the leader hangs up, at most %g s", seconds)
    await asyncio.wait([computing], timeout=seconds)
    if not computing.done():
        logger.warning("drain timeout: the leader has not hung up")
        return
    try:
        computing.result()
    except LeaderGone as end:
        logger.info("%s", end)


def _identify(model: Path) -> str:
    return fingerprint(read_model_info(model))


def _make_app(node: Node, model_name: str) -> Starlette:
    collector = NodeCollector(node, model_name)

    async def livez(_: Request) -> Response:
        """A node that lives answers: what ends its ranks or its leader ends it."""
        return verdict(None)

    async def readyz(_: Request) -> Response:
        return verdict(node.unready())

    async def startupz(_: Request) -> Response:
        return JSONResponse(node.startup(), 200 if node.loaded else 503)

    async def get_metrics(_: Request) -> Response:
        return Response(metrics.render(collector), media_type=metrics.CONTENT_TYPE)

    probes = (("/livez", livez), ("/readyz", readyz), ("/startupz", startupz), ("/metrics", get_metrics))
    return Starlette(routes=[Route(path, probe) for path, probe in probes])

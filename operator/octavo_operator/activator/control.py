"""The control port: the operator's question, the kubelet's probes, the metrics. Clients have another one."""

from typing import Final

from aiohttp import web

from octavo_operator.activator.ledger import Ledger
from octavo_operator.activator.metrics import Metrics
from octavo_operator.core import names
from octavo_operator.core.held import LONGEST_LOOK_SECONDS
from octavo_operator.metrics import CONTENT_TYPE

ENDING: Final = web.AppKey("ending", list[bool])
"""Not empty once the process was asked to end."""


def make_control(ledger: Ledger, metrics: Metrics) -> web.Application:
    """The application; it answers from memory alone."""
    app = web.Application()
    app[ENDING] = []

    async def get_held(request: web.Request) -> web.Response:
        await ledger.other_than(request.query.get("seen", ""), _seconds(request.query.get("wait", "")))
        said = {"version": ledger.version, "held": ledger.count.requests, "tokens": ledger.tokens}
        return web.json_response(said)

    async def get_metrics(_: web.Request) -> web.Response:
        metrics.held.set(ledger.count.requests)
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def get_livez(_: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def get_readyz(_: web.Request) -> web.Response:
        return web.Response(text="ending", status=503) if app[ENDING] else web.Response(text="ok")

    handlers = {
        names.PATH_HELD: get_held,
        names.PATH_METRICS: get_metrics,
        names.PATH_LIVE: get_livez,
        names.PATH_READY: get_readyz,
    }
    app.add_routes([web.get(path, handler) for path, handler in handlers.items()])
    return app


def _seconds(text: str) -> float:
    """Garbage and impatience are no wait."""
    try:
        return min(max(0.0, float(text)), LONGEST_LOOK_SECONDS)
    except ValueError:
        return 0.0

"""The operator's own port: /metrics, /healthz, /readyz."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from octavo_operator.health import Health
from octavo_operator.metrics import CONTENT_TYPE, Metrics


def make_app(metrics: Metrics, health: Health) -> web.Application:
    """The application; it answers from memory alone."""

    async def get_metrics(_: web.Request) -> web.Response:
        return web.Response(body=metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    async def get_healthz(_: web.Request) -> web.Response:
        problems = health.problems()
        return web.Response(text="\n".join(problems) or "ok", status=503 if problems else 200)

    async def get_readyz(_: web.Request) -> web.Response:
        return web.Response(text="ok" if health.synced else "not synced", status=200 if health.synced else 503)

    app = web.Application()
    app.add_routes([web.get("/metrics", get_metrics), web.get("/healthz", get_healthz), web.get("/readyz", get_readyz)])
    return app


@asynccontextmanager
async def serving(app: web.Application, port: int) -> AsyncIterator[None]:
    """Serves the application on all interfaces while the context is open."""
    # No idle connections: kopf waits 5 s at the end for every task that is left, and each of them is one.
    runner = web.AppRunner(app, access_log=None, keepalive_timeout=0)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()

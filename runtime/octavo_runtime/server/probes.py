"""What Kubernetes and people ask: is it alive, is it ready, how far is the start, what does it count."""

from __future__ import annotations

import time
from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from octavo_runtime import metrics

if TYPE_CHECKING:
    from octavo_runtime.server.service import Service


def probe_routes(service: Service) -> APIRouter:
    router = APIRouter()

    @router.get("/livez")
    async def livez() -> Response:
        """200 unless the engine is dead for good or gives no sign of life; a restart of all is the cure."""
        return verdict(service.engine.supervisor.problem(time.monotonic()))

    @router.get("/readyz")
    async def readyz() -> Response:
        """200 when new requests are welcome."""
        return verdict(_unready(service))

    @router.get("/startupz")
    async def startupz() -> Response:
        """How far the start is; 200 once the model can serve."""
        phase, progress = service.startup()
        body: dict[str, object] = {
            "phase": phase,
            "progress": round(progress, 4),
            "seconds": round(service.uptime(), 3),
        }
        body |= service.fetch.facts()
        return JSONResponse(body, 200 if service.ready is not None else 503)

    @router.get("/metrics")
    async def get_metrics() -> Response:
        return Response(metrics.render(service.collector), media_type=metrics.CONTENT_TYPE)

    @router.get("/version")
    async def get_version() -> Response:
        """Of the runtime, and the revision of a model that was fetched."""
        return JSONResponse({"version": version("octavo-runtime"), "model_revision": service.fetch.revision})

    return router


def _unready(service: Service) -> str | None:
    if service.lifecycle.draining:
        return "draining"
    if service.ready is None or not service.engine.supervisor.serving:
        death = service.engine.supervisor.last_death
        return "the model is still loading" if death is None else f"the model is loading again: {death}"
    return service.engine.supervisor.problem(time.monotonic())


def verdict(problem: str | None) -> Response:
    if problem is None:
        return JSONResponse({"status": "ok"})
    return JSONResponse({"status": "failed", "reason": problem}, 503)

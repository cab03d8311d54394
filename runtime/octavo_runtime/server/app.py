"""The ASGI application, made from a `Service`. Nothing is global; two can live in one process."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from fastapi import FastAPI

from octavo_runtime.server.body_limit import BodyLimitMiddleware
from octavo_runtime.server.errors import install_handlers
from octavo_runtime.server.lifecycle import LifecycleMiddleware
from octavo_runtime.server.probes import probe_routes
from octavo_runtime.server.request_id import RequestIdMiddleware
from octavo_runtime.server.routes import openai_routes
from octavo_runtime.server.tokens import token_routes

if TYPE_CHECKING:
    from octavo_runtime.server.service import Service


def create_app(service: Service, *, max_body_size: int) -> FastAPI:
    """`max_body_size` is in bytes."""
    app = FastAPI(
        title="Octavo",
        version=version("octavo-runtime"),
        docs_url=None,  # they would load scripts from elsewhere; /openapi.json is there
        redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    install_handlers(app, max_body_size)
    app.include_router(openai_routes(service))
    app.include_router(token_routes(service))
    app.include_router(probe_routes(service))
    app.add_middleware(BodyLimitMiddleware, max_body_size=max_body_size)
    app.add_middleware(LifecycleMiddleware, lifecycle=service.lifecycle)
    app.add_middleware(RequestIdMiddleware)
    return app

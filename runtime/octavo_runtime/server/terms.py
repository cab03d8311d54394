"""Who asks, and how it is to be treated: tenant, priority, timeout, cache salt."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING

from octavo_runtime.engine.messages import Terms

if TYPE_CHECKING:
    from starlette.requests import Request

    from octavo_runtime.server.openai import GenerationRequest


def terms_of(body: GenerationRequest, request: Request) -> Terms:
    """A tenant is an API key; without keys, what the client calls its `user`.

    A key is not checked here, which is a gateway's work; only its hash goes on. Under one key `user` makes no tenants
    of its own: whoever holds a key could claim as many shares as it invents names.
    """
    key = request.headers.get("authorization")
    name = ("key", key) if key else ("user", body.user or "")
    return Terms(
        tenant=sha256(repr(name).encode()).hexdigest(),
        salt=body.cache_salt or "",
        priority=body.priority or 0,
        timeout=body.timeout,
    )

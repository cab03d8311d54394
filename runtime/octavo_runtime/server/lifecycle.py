"""How the server ends: so that no answer is cut.

    SIGTERM     delay                          timeout
    |-----------|------------------------------|
    unready     refuse new work                give up on the rest
                |<- exit as soon as the last answer is out ->|

During the delay new requests are still served, because Kubernetes goes on sending them until every node has heard that
this pod is not ready; each answer closes its connection, so that clients do not keep one to a pod that goes.

Whoever ends the pod may give it less time than that (a spot instance's node gives some seconds), and who is killed can
say nothing. So from SIGTERM on the termination message says what would be cut if the end was now.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Final

from octavo_runtime.errors import Aborted, Draining, EngineDied
from octavo_runtime.server.errors import error_response
from octavo_runtime.termination import forget_termination_message, write_termination_message

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from octavo_runtime.engine.client import EngineClient

logger = logging.getLogger(__name__)

LAST_EVENTS_WAIT: Final = 5.0  # seconds for error events to reach their clients


class DrainState(Enum):
    SERVING = "serving"
    ANNOUNCED = "announced"  # unready, but still serving
    REFUSING = "refusing"
    ENDING = "ending"  # time is over, or the engine is dead: what is still under way ends here


class Lifecycle:
    """Which requests are under way, and whether new ones are welcome."""

    def __init__(self) -> None:
        self.state = DrainState.SERVING
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def draining(self) -> bool:
        return self.state is not DrainState.SERVING

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count a request from its arrival to its last byte."""
        self._active += 1
        self._idle.clear()
        self._foretell()
        try:
            yield
        finally:
            self._active -= 1
            self._foretell()
            if self._active == 0:
                self._idle.set()

    async def drain(self, engine: EngineClient, *, delay: float, timeout: float) -> None:  # noqa: ASYNC109  the pod's
        """Carry out the picture above."""
        self.state = DrainState.ANNOUNCED
        self._foretell()
        logger.info("draining: %d requests under way, new ones still served for %g s", self._active, delay)
        await asyncio.sleep(delay)
        self.state = DrainState.REFUSING
        engine.supervisor.retire()
        logger.info("draining: %d requests under way, at most %g s more", self._active, timeout)
        if not await self._empty_within(timeout):
            self.state = DrainState.ENDING
            self._confess(timeout)
            engine.fail_all(Aborted())
            await self._empty_within(LAST_EVENTS_WAIT)

    def _foretell(self) -> None:
        """While it drains: say how many answers would end with a kill now, to the operator."""
        if self.state not in (DrainState.ANNOUNCED, DrainState.REFUSING):
            return
        if self._active:
            message = f"{self._active} requests cut: killed while it drained"
            write_termination_message("RequestsCut", message, requests=self._active)
        else:
            forget_termination_message()

    def _confess(self, timeout: float) -> None:
        """Say how many answers end here, in the log and to the operator."""
        logger.warning("drain timeout: aborting %d requests", self._active)
        message = f"{self._active} requests cut {timeout:g} s after the drain delay"
        write_termination_message("RequestsCut", message, requests=self._active)

    async def collapse(self, engine: EngineClient) -> None:
        """The engine is dead: let every stream say so."""
        self.state = DrainState.ENDING
        engine.fail_all(EngineDied())
        await self._empty_within(LAST_EVENTS_WAIT)

    async def _empty_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), seconds)
        except TimeoutError:
            return False
        return True


class LifecycleMiddleware:
    """ASGI middleware: counts generation requests to their last byte, and refuses them when it is too late.

    While the server drains, each answer asks for its connection to be closed.
    """

    def __init__(self, app: ASGIApp, lifecycle: Lifecycle) -> None:
        self._app = app
        self._lifecycle = lifecycle

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_and_close(message: Message) -> None:
            if message["type"] == "http.response.start" and self._lifecycle.draining:
                message["headers"] = [*message.get("headers", ()), (b"connection", b"close")]
            await send(message)

        if scope["method"] != "POST":
            await self._app(scope, receive, send_and_close)
        elif self._lifecycle.state in (DrainState.REFUSING, DrainState.ENDING):
            await error_response(Draining())(scope, receive, send_and_close)
        else:
            with self._lifecycle.request():
                await self._app(scope, receive, send_and_close)

"""Keeps an engine process running: the first start, restarts, and the end of it."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from zmq import ZMQError

from octavo_runtime.engine.folder import remove_abandoned_folders
from octavo_runtime.engine.incarnation import Incarnation
from octavo_runtime.engine.restarts import GiveUp, RestartPolicy
from octavo_runtime.engine.state_page import EngineState, Phase
from octavo_runtime.errors import EngineFailed, StartError

if TYPE_CHECKING:
    from pathlib import Path

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.engine.messages import Started, StepDone

logger = logging.getLogger(__name__)


class Listener(Protocol):
    """Told at once what happens to the engine."""

    def engine_stepped(self, step: StepDone) -> None: ...
    def engine_lost(self) -> None:
        """Nobody computes what it was given; it may not have been ready."""

    def engine_restarted(self) -> None: ...


class _Death(NamedTuple):
    why: StartError
    was_ready: bool


class Supervisor:
    """Use from one event loop, in the main thread.

    | loading        | serving     | loading        | serving     |
    start()          started       lost             started       died     (its futures)
    """

    def __init__(self, config: ServeConfig, listener: Listener) -> None:
        self._config = config
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._past = EngineState()  # totals of the engines that are gone
        self._closing: asyncio.Future[None] = self._loop.create_future()
        self._task: asyncio.Task[None] | None = None
        self._retired = False
        self.engine: Incarnation | None = None
        self.last_death: str | None = None  # why an engine ended, if one has
        # Of the engine that serves or will serve next; both are replaced when it is lost.
        self.started: asyncio.Future[Started] = self._loop.create_future()
        self.lost: asyncio.Future[None] = self._loop.create_future()
        self.died: asyncio.Future[StartError] = self._loop.create_future()  # there will be no other; why

    def start(self, model: Path) -> None:
        """Start the first engine, on the model that is at `model` now."""
        self._config = replace(self._config, model=model)
        remove_abandoned_folders()
        self._task = self._loop.create_task(self._supervise())
        self._task.add_done_callback(self._task_ended)

    def retire(self) -> None:
        """There will be no new work: the engine finishes what it has, and is not replaced if it ends."""
        self._retired = True

    async def close(self) -> None:
        """Stop the engine and remove everything that this object made."""
        self._closing.set_result(None)
        if self._task is not None:
            await asyncio.wait([self._task])

    @property
    def serving(self) -> bool:
        """Whether there is an engine that has loaded the model."""
        return self.engine is not None and self.engine.limits is not None

    def state(self) -> EngineState:
        """What the page says; totals are those of all engines so far. Between two engines it is an empty page."""
        current = EngineState(beat=time.monotonic()) if self.engine is None else self.engine.state()
        return current.plus_totals(self._past)

    def problem(self, now: float) -> str | None:
        """Why there is no engine that lives or will live, or None. A restart under way is no problem."""
        if self.died.done():
            return str(self.died.result())
        state = self.state()
        limit = self._config.stall_limit if state.phase == Phase.READY else self._config.startup_stall_limit
        silent = now - state.beat
        if silent > limit:
            return f"no sign of life from the engine for {silent:.0f} s in phase {state.phase.name.lower()}"
        return None

    async def _supervise(self) -> None:
        policy = RestartPolicy(self._config.max_engine_restarts)
        first = True
        while (death := await self._live()) is not None:
            if self._retired:
                logger.error("%s; not starting it again: there is no work for it", death.why)
                return
            decision = policy.engine_died(time.monotonic(), was_ready=death.was_ready)
            if isinstance(decision, GiveUp):
                # The first one's own words say best why it cannot start.
                self.died.set_result(death.why if first else EngineFailed(f"{death.why}; {decision.reason}"))
                return
            first = False
            logger.error("%s; starting it again in %g s: %s", death.why, decision.delay, decision.reason)
            await asyncio.wait([self._closing], timeout=decision.delay)
            if self._closing.done():
                return
            self._listener.engine_restarted()

    async def _live(self) -> _Death | None:
        """One engine from its start to its end; None when it was told to end."""
        try:
            engine = Incarnation(self._config, on_started=self._on_started, on_step=self._listener.engine_stepped)
        except (OSError, ZMQError) as error:
            return _Death(EngineFailed(f"the engine process cannot be started: {error}"), was_ready=False)
        self.engine = engine
        try:
            await _first(engine.ended, self._closing)
            if self._closing.done():
                return None
            self.last_death = str(engine.ended.result())
            return _Death(engine.ended.result(), engine.limits is not None)
        finally:
            self._lose(engine)
            await engine.close()

    def _on_started(self, limits: Started) -> None:
        self.started.set_result(limits)

    def _lose(self, engine: Incarnation) -> None:
        """Stop serving, at once and as a whole: nobody may think that requests are computed any more."""
        self.engine = None
        self._past = engine.state().plus_totals(self._past)
        if engine.limits is not None:
            self.lost.set_result(None)
            self.started, self.lost = self._loop.create_future(), self._loop.create_future()
        self._listener.engine_lost()

    def _task_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("supervising the engine failed", exc_info=error)
            self.died.set_result(EngineFailed(f"supervising the engine failed: {error!r}"))


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)

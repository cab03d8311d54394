"""One life of the engine: a process, and the sockets and state page that belong to it alone.

A restarted engine gets all of them new, so nothing that an old one sent or wrote can be taken for news of the new one.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING, Final

from octavo_runtime import errors
from octavo_runtime.engine.channel import ApiChannel
from octavo_runtime.engine.messages import Started, StartFailed, StepDone, Stop
from octavo_runtime.engine.process import START_FAILED, EngineProcess
from octavo_runtime.engine.state_page import EngineState, StatePage

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.engine.messages import ToEngine

_STOP_GRACE: Final = 5.0  # seconds for an engine that reads its messages to end by itself
_LAST_WORDS_WAIT: Final = 5.0  # seconds for the message of an engine that has said why it ends


class Incarnation:
    """Make it in the main thread, with a running event loop. Raises `OSError` when there is no room for a process."""

    def __init__(
        self, config: ServeConfig, *, on_started: Callable[[Started], None], on_step: Callable[[StepDone], None]
    ) -> None:
        self.limits: Started | None = None  # known once the model is loaded
        self._on_started = on_started
        self._on_step = on_step
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[errors.StartError] = self._loop.create_future()  # why, when it ends by itself
        self._channel = ApiChannel()
        try:
            self._page, self._process = self._spawn(config)
        except OSError:
            self._channel.close()
            raise
        self._reader = self._loop.create_task(self._read())
        self._reader.add_done_callback(self._reader_ended)

    def _spawn(self, config: ServeConfig) -> tuple[StatePage, EngineProcess]:
        page_fd = StatePage.create_fd()
        try:
            page = StatePage(page_fd)
            page.write(EngineState(beat=time.monotonic()))
            process = EngineProcess(
                config,
                folder=self._channel.folder,
                page_fd=page_fd,
                on_exit=lambda status: self._loop.call_soon_threadsafe(self._exited, status),
            )
        finally:
            os.close(page_fd)
        return page, process

    def state(self) -> EngineState:
        return self._page.read()

    def send(self, message: ToEngine) -> None:
        self._channel.send(message)

    async def close(self) -> None:
        """End the process, if it still runs, and remove everything that this object made."""
        loading = self.limits is None and not self.ended.done()
        self._reader.cancel()
        self._channel.send(Stop())
        await asyncio.to_thread(self._process.end, 0.0 if loading else _STOP_GRACE)
        self._channel.close()
        self._page.close()

    async def _read(self) -> None:
        while True:
            match message := await self._channel.receive():
                case StepDone():
                    self._on_step(message)
                case Started():
                    self.limits = message
                    self._on_started(message)
                case StartFailed():
                    self._end(errors.start_error(message.reason, message.message))

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """A reader that fails leaves us deaf, which for every request is the same as a dead engine."""
        if not reader.cancelled() and (error := reader.exception()) is not None:
            self._end(errors.EngineFailed(f"a message of the engine could not be handled: {error!r}"))

    def _exited(self, status: int) -> None:
        # An engine that ends with this status has said why, and the message may still be under way.
        wait = _LAST_WORDS_WAIT if status == START_FAILED else 0.0
        self._loop.call_later(wait, self._end, errors.EngineFailed(f"the engine process ended with status {status}"))

    def _end(self, error: errors.StartError) -> None:
        if not self.ended.done():
            self.ended.set_result(error)

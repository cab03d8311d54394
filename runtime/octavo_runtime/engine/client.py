"""The API process's view of the engine: submit, abort, read results, see its state."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Final, Protocol

from octavo_runtime import errors
from octavo_runtime.core.sequence import FinishReason
from octavo_runtime.engine.channel import ApiChannel
from octavo_runtime.engine.messages import Abort, Add, Started, StartFailed, StepDone, Stop
from octavo_runtime.engine.process import START_FAILED, EngineProcess
from octavo_runtime.engine.slot import OutputSlot
from octavo_runtime.engine.state_page import EngineState, Phase, StatePage

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.batch import SamplingParams

STOP_GRACE: Final = 5.0  # seconds for a loaded engine to end by itself
LAST_WORDS_WAIT: Final = 5.0  # seconds for the message of an engine that could not start


class Observer(Protocol):
    """Told what happens to requests, for metrics. Times are seconds of time.monotonic()."""

    def queued(self, seconds: float) -> None: ...
    def first_token(self, seconds: float) -> None: ...
    def next_token(self, seconds: float) -> None: ...
    def finished(self, reason: str, seconds: float) -> None: ...


@dataclass(slots=True)
class _Request:
    slot: OutputSlot
    arrived_at: float
    last_token_at: float | None = None


class EngineClient:
    """Starts an engine process and talks to it. Use from one event loop, in the main thread."""

    def __init__(self, config: ServeConfig, observer: Observer) -> None:
        self._config = config
        self._observer = observer
        self._requests: dict[int, _Request] = {}
        self._ids = count(1)
        self._stopping = False
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = self._loop.create_future()  # or a StartError
        self.died: asyncio.Future[str] = self._loop.create_future()  # why, when it ends unasked
        self._channel = ApiChannel()
        self._page, self._process = self._spawn()
        self._reader = self._loop.create_task(self._read())
        self._reader.add_done_callback(self._reader_ended)

    def _spawn(self) -> tuple[StatePage, EngineProcess]:
        page_fd = StatePage.create_fd()
        try:
            page = StatePage(page_fd)
            page.write(EngineState(beat=time.monotonic()))
            process = EngineProcess(
                self._config,
                folder=self._channel.folder,
                page_fd=page_fd,
                on_exit=lambda status: self._loop.call_soon_threadsafe(self._ended, status),
            )
        finally:
            os.close(page_fd)
        return page, process

    def state(self) -> EngineState:
        return self._page.read()

    def problem(self, now: float) -> str | None:
        """Why the engine is not alive, or None when it is."""
        if not self._process.alive:
            return "the engine process has ended"
        state = self.state()
        limit = self._config.stall_limit if state.phase == Phase.READY else self._config.startup_stall_limit
        silent = now - state.beat
        if silent > limit:
            return f"no sign of life from the engine for {silent:.0f} s in phase {state.phase.name.lower()}"
        return None

    def submit(self, prompt: list[int], params: SamplingParams) -> OutputSlot:
        """Hand a validated request to the engine. Raises `QueueFull`, `EngineDied`."""
        if self.died.done():
            raise errors.EngineDied
        if len(self._requests) >= self._config.max_num_seqs + self._config.max_queued_requests:
            raise errors.QueueFull(self._config.max_queued_requests)
        slot = OutputSlot(next(self._ids))
        self._requests[slot.request_id] = _Request(slot, time.monotonic())
        self._channel.send(Add(slot.request_id, prompt, params))
        return slot

    def abort(self, slot: OutputSlot, reason: FinishReason = FinishReason.ABORT) -> None:
        """Stop computing a request, whatever its state. `reason` is what the metrics count: a stop string is a stop."""
        if self._finish(slot.request_id, reason) is not None:
            self._channel.send(Abort(slot.request_id))

    def fail_all(self, error: errors.RequestError) -> None:
        """End every request with `error`."""
        for request_id in list(self._requests):
            self._fail(request_id, error)
            self._channel.send(Abort(request_id))

    async def close(self) -> None:
        """Stop the engine and remove everything that this object made."""
        self._stopping = True
        self._channel.send(Stop())
        await asyncio.to_thread(self._process.end, STOP_GRACE if self.started.done() else 0.0)
        self._reader.cancel()
        self._channel.close()
        self._page.close()

    async def _read(self) -> None:
        while True:
            match message := await self._channel.receive():
                case StepDone():
                    self._dispatch(message)
                case Started():
                    self.started.set_result(message)
                case StartFailed():
                    self.started.set_exception(_start_error(message))

    def _dispatch(self, step: StepDone) -> None:
        now = time.monotonic()
        for request_id in step.admitted:
            if (request := self._requests.get(request_id)) is not None:
                self._observer.queued(step.started_at - request.arrived_at)
        for output in step.outputs:
            if (request := self._requests.get(output.seq_id)) is not None:  # else aborted meanwhile
                for _ in output.tokens:
                    self._observe_token(request, now)
                request.slot.put(output)
                if output.finish_reason is not None:
                    self._finish(output.seq_id, output.finish_reason)
        for request_id in step.failed:
            self._fail(request_id, errors.EngineError("computing this request failed; the server's log says why"))

    def _observe_token(self, request: _Request, now: float) -> None:
        if request.last_token_at is None:
            self._observer.first_token(now - request.arrived_at)
        else:
            self._observer.next_token(now - request.last_token_at)
        request.last_token_at = now

    def _fail(self, request_id: int, error: errors.RequestError) -> None:
        reason = FinishReason.ABORT.value if isinstance(error, errors.Aborted) else "error"
        if (request := self._finish(request_id, reason)) is not None:
            request.slot.fail(error)

    def _finish(self, request_id: int, reason: str) -> _Request | None:
        request = self._requests.pop(request_id, None)
        if request is not None:
            self._observer.finished(reason, time.monotonic() - request.arrived_at)
        return request

    def _reader_ended(self, reader: asyncio.Task[None]) -> None:
        """A reader that fails leaves us deaf, which for every request is the same as a dead engine."""
        if not reader.cancelled() and (error := reader.exception()) is not None:
            self._declare_dead(f"a message of the engine could not be handled: {error!r}")

    def _ended(self, status: int) -> None:
        if self._stopping:
            return
        # An engine that ends with this status has said why, and the message may still be under way.
        wait = LAST_WORDS_WAIT if status == START_FAILED and not self.started.done() else 0.0
        self._loop.call_later(wait, self._declare_dead, f"the engine process ended with status {status}")

    def _declare_dead(self, message: str) -> None:
        if not self.started.done():
            self.started.set_exception(errors.EngineFailed(message))
        for request_id in list(self._requests):
            self._fail(request_id, errors.EngineDied())
        if not self.died.done():
            self.died.set_result(message)


def _start_error(message: StartFailed) -> errors.StartError:
    kinds = {kind.reason: kind for kind in errors.StartError.__subclasses__()}
    return kinds.get(message.reason, errors.EngineFailed)(message.message)

"""The API process's view of the engine: submit, abort, read results, see its state."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Protocol

import msgspec
import zmq
import zmq.asyncio

from octavo_runtime import errors
from octavo_runtime.core.sequence import FinishReason
from octavo_runtime.engine.messages import Abort, Add, FromEngine, Started, StartFailed, StepDone, Stop, ToEngine
from octavo_runtime.engine.process import EngineProcess
from octavo_runtime.engine.slot import OutputSlot
from octavo_runtime.engine.state_page import EngineState, Phase, StatePage

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.batch import SamplingParams

logger = logging.getLogger(__name__)


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
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)
        self._loop = asyncio.get_running_loop()
        self.started: asyncio.Future[Started] = self._loop.create_future()
        self.died: asyncio.Future[str] = self._loop.create_future()  # with a message, when it ends unasked
        self._stopping = False
        self._folder = tempfile.mkdtemp(prefix="octavo-")  # mode 0700: nobody else can connect
        page_fd = StatePage.create_fd()
        self._page = StatePage(page_fd)
        self._page.write(EngineState(beat=time.monotonic()))
        self._context = zmq.asyncio.Context()
        self._to_engine = self._bind(zmq.PUSH, "in")
        self._from_engine = self._bind(zmq.PULL, "out")
        self._process = EngineProcess(
            config,
            inbox=self._address("in"),
            outbox=self._address("out"),
            page_fd=page_fd,
            on_exit=lambda status: self._loop.call_soon_threadsafe(self._ended, status),
        )
        os.close(page_fd)
        self._reader = self._loop.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def num_requests(self) -> int:
        return len(self._requests)

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
        if len(self._requests) >= self._config.max_queued_requests:
            raise errors.QueueFull(self._config.max_queued_requests)
        slot = OutputSlot(next(self._ids))
        self._requests[slot.request_id] = _Request(slot, time.monotonic())
        self._send(Add(slot.request_id, prompt, params))
        return slot

    def abort(self, slot: OutputSlot, reason: FinishReason = FinishReason.ABORT) -> None:
        """Stop computing a request, whatever its state. `reason` is what the metrics count: a stop string is a stop."""
        if self._finish(slot.request_id, reason) is not None:
            self._send(Abort(slot.request_id))

    def fail_all(self, error: errors.RequestError) -> None:
        """End every request with `error`."""
        for request_id in list(self._requests):
            self._fail(request_id, error)
            self._send(Abort(request_id))

    async def close(self) -> None:
        """Stop the engine and remove everything that this object made."""
        self._stopping = True
        self._send(Stop())
        await asyncio.to_thread(self._process.end)
        self._reader.cancel()
        self._context.destroy(linger=0)
        self._page.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _address(self, name: str) -> str:
        return f"ipc://{self._folder}/{name}"

    def _bind(self, kind: int, name: str) -> zmq.asyncio.Socket:
        socket = self._context.socket(kind)
        socket.set_hwm(0)  # bounded by max_queued_requests, see loop.Channel
        socket.bind(self._address(name))
        return socket

    def _send(self, message: ToEngine) -> None:
        # Without a high-water mark a send never has to wait; the shadowed call is zmq's plain one.
        zmq.Socket.send(self._to_engine, self._encoder.encode(message), zmq.NOBLOCK)

    async def _read(self) -> None:
        while True:
            message = self._decoder.decode(await self._from_engine.recv())
            match message:
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
        for request_id, token, reason in step.outputs:
            if (request := self._requests.get(request_id)) is not None:  # else aborted meanwhile
                self._observe_token(request, now)
                request.slot.put(token, reason)
                if reason is not None:
                    self._finish(request_id, reason)
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

    def _ended(self, status: int) -> None:
        """The process is gone. Its last words may still be under way, so the reader gets a turn first."""
        if not self._stopping:
            self._loop.call_later(0.1, self._declare_dead, status)

    def _declare_dead(self, status: int) -> None:
        message = f"the engine process ended with status {status}"
        if not self.started.done():
            self.started.set_exception(errors.EngineFailed(message))
        for request_id in list(self._requests):
            self._fail(request_id, errors.EngineDied())
        if not self.died.done():
            self.died.set_result(message)


def _start_error(message: StartFailed) -> errors.StartError:
    kinds = {kind.reason: kind for kind in errors.StartError.__subclasses__()}
    return kinds.get(message.reason, errors.EngineFailed)(message.message)

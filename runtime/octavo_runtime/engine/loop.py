"""The engine process's loop: inbox, step, one message out, state page; and an idle tick when there is nothing to do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

import msgspec
import zmq

from octavo_runtime.engine.messages import Abort, Add, Stop, ToEngine
from octavo_runtime.engine.state_page import EngineState, Phase

if TYPE_CHECKING:
    from octavo_runtime.engine.messages import FromEngine
    from octavo_runtime.engine.state_page import StatePage
    from octavo_runtime.engine.step import Engine

IDLE_TICK: Final = 0.5  # seconds between two signs of life when there is nothing to do


class Channel:
    """The engine's ends of the two sockets."""

    def __init__(self, inbox: str, outbox: str) -> None:
        self._context = zmq.Context()
        self._inbox = self._context.socket(zmq.PULL)
        self._outbox = self._context.socket(zmq.PUSH)
        for socket in (self._inbox, self._outbox):
            # No limit in messages: the API process bounds the requests, and so all that can be under way. With a limit,
            # an API process that is busy for a moment would stop the step loop.
            socket.set_hwm(0)
            socket.linger = 1000  # ms, for the last words
        self._inbox.connect(inbox)
        self._outbox.connect(outbox)
        self._decoder = msgspec.msgpack.Decoder(ToEngine)
        self._encoder = msgspec.msgpack.Encoder()

    def receive(self, wait: float) -> list[ToEngine]:
        """All messages that are there, after waiting up to `wait` seconds for the first."""
        messages: list[ToEngine] = []
        if not self._inbox.poll(int(wait * 1000)):
            return messages
        while True:
            try:
                messages.append(self._decoder.decode(self._inbox.recv(zmq.NOBLOCK)))
            except zmq.Again:
                return messages

    def send(self, message: FromEngine) -> None:
        self._outbox.send(self._encoder.encode(message))

    def close(self) -> None:
        """Close, after the last messages are out."""
        self._inbox.close()
        self._outbox.close()
        self._context.term()


class Loop:
    """Runs an engine until it is told to stop."""

    def __init__(self, engine: Engine, channel: Channel, page: StatePage, startup: EngineState) -> None:
        """`startup` is the state that the page had when the model was loaded; its phase times are kept."""
        self._engine = engine
        self._channel = channel
        self._page = page
        self._startup = startup
        self._steps = 0
        self._publish()

    def run(self) -> None:
        while self._handle(self._channel.receive(0.0 if self._engine.has_work else IDLE_TICK)):
            if self._engine.has_work:
                self._channel.send(self._engine.step(time.monotonic()))
                self._steps += 1
            self._publish()

    def _handle(self, messages: list[ToEngine]) -> bool:
        """Take in what the API process says; False when it says stop."""
        for message in messages:
            match message:
                case Add():
                    self._engine.add(message)
                case Abort(request_id):
                    self._engine.abort(request_id)
                case Stop():
                    return False
        return True

    def _publish(self) -> None:
        stats = self._engine.stats()
        self._page.write(
            self._startup._replace(
                phase=Phase.READY,
                progress=1.0,
                beat=time.monotonic(),
                steps=self._steps,
                running=stats.running,
                waiting=stats.waiting,
                waiting_tokens=stats.waiting_tokens,
                kv_tokens_used=stats.kv_tokens_used,
                kv_tokens_capacity=stats.kv_tokens_capacity,
                preemptions=stats.preemptions,
                prompt_tokens=stats.prompt_tokens,
                generation_tokens=stats.generation_tokens,
            )
        )

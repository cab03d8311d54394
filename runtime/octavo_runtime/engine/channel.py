"""The two sockets between the processes, and both ends of them.

    API process    PUSH connect ───"in"───> bind PULL    engine process
                   PULL bind    <──"out"─── connect PUSH

They are files in a folder that only this user can enter. There is no limit in messages: the API process bounds the
requests, and so all that can be under way; with a limit, one process that is busy for a moment would stop the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
import zmq
import zmq.asyncio

from octavo_runtime.engine.folder import SocketFolder
from octavo_runtime.engine.messages import FromEngine, ToEngine

if TYPE_CHECKING:
    from pathlib import Path

S = TypeVar("S", bound=zmq.Socket[Any])

_LAST_WORDS: Final = 1000  # ms for messages that are still under way when the engine ends


class EngineChannel:
    """The engine's end. Blocking."""

    def __init__(self, folder: Path) -> None:
        self._context = zmq.Context()
        self._inbox = _unlimited(self._context.socket(zmq.PULL))
        self._outbox = _unlimited(self._context.socket(zmq.PUSH))
        self._outbox.linger = _LAST_WORDS
        self._inbox.bind(f"ipc://{folder}/in")
        self._outbox.connect(f"ipc://{folder}/out")
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


def send_last_words(folder: Path, message: FromEngine) -> None:
    """Send a message from any thread of the engine, whose own channel belongs to one of them."""
    with zmq.Context() as context, context.socket(zmq.PUSH) as outbox:
        outbox.linger = _LAST_WORDS
        outbox.connect(f"ipc://{folder}/out")
        outbox.send(msgspec.msgpack.encode(message))


class ApiChannel:
    """The API process's end, for one event loop. Owns the folder."""

    def __init__(self) -> None:
        self._folder = SocketFolder()
        self._context = zmq.Context()
        self._to_engine = _unlimited(self._context.socket(zmq.PUSH))
        self._to_engine.connect(f"ipc://{self.folder}/in")
        self._from_engine = _unlimited(zmq.asyncio.Context(self._context).socket(zmq.PULL))
        self._from_engine.bind(f"ipc://{self.folder}/out")
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(FromEngine)

    @property
    def folder(self) -> Path:
        return self._folder.path

    def send(self, message: ToEngine) -> None:
        """Queue a message; it never has to wait, also before the engine is there."""
        self._to_engine.send(self._encoder.encode(message), zmq.NOBLOCK)

    async def receive(self) -> FromEngine:
        message: FromEngine = self._decoder.decode(await self._from_engine.recv())
        return message

    def close(self) -> None:
        self._to_engine.close(linger=0)
        self._from_engine.close(linger=0)
        self._context.term()
        self._folder.remove()


def _unlimited(socket: S) -> S:
    socket.set_hwm(0)
    return socket

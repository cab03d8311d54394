"""Another node as rank 0 sees it: a connection that takes what its ranks are to do, and watches over it."""

from __future__ import annotations

import queue
import socket
import threading
from contextlib import suppress
from typing import Final

import msgspec

from octavo_runtime import errors
from octavo_runtime.parallel import frames
from octavo_runtime.parallel.gathering import name_of
from octavo_runtime.parallel.messages import FromNode, FromWorker, Lost, Refused

_FAREWELL: Final = 1.0  # seconds


class RemoteNode:
    """Has the same verbs as a rank's process."""

    def __init__(self, number: int, connection: socket.socket) -> None:
        self._name = name_of(number, connection)
        self._connection = connection
        self._answers: queue.SimpleQueue[FromWorker | None] = queue.SimpleQueue()
        self._ended = threading.Event()
        self._why = ""
        self.has_explained_itself = False
        threading.Thread(target=self._listen, name=f"node-{number}", daemon=True).start()

    def send(self, message: bytes) -> None:
        self._connection.sendall(frames.frame(message))

    def receive(self) -> FromWorker:
        """Its next answer, for all of its ranks. Raises `StartError` when they cannot start, or it is lost."""
        message = self._answers.get()
        if message is None:
            raise errors.EngineFailed(self._why)
        if isinstance(message, Refused):
            raise errors.start_error(message.reason, f"{self._name}: {message.message}")
        return message

    def why_it_ended(self, patience: float | None = None) -> str | None:
        """Wait for its end, at most `patience` seconds; None when it lives."""
        return self._why if self._ended.wait(patience) else None

    def hang_up(self) -> None:
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """It ends by itself when nobody is left to tell it anything."""
        self._ended.wait(_FAREWELL)
        self._connection.close()

    def _listen(self) -> None:
        try:
            while not isinstance(message := self._next(), Lost):
                self.has_explained_itself = isinstance(message, Refused)
                self._answers.put(message)
                self._why = f"{self._name}: {message.message}" if isinstance(message, Refused) else self._why
            self._why = f"{self._name}: {message.message}"
        except (OSError, EOFError, msgspec.MsgspecError) as error:
            self._why = self._why or f"{self._name} was lost: {error}"
        self._answers.put(None)
        self._ended.set()

    def _next(self) -> FromNode:
        words = frames.receive(self._connection, frames.ANSWER_LIMIT)
        message: FromNode = msgspec.msgpack.decode(words, type=FromNode)
        return message

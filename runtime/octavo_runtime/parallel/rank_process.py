"""A rank's process, as the process that started it sees it. Imports no torch: a node that only passes on needs none."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Final

import msgspec

from octavo_runtime import errors
from octavo_runtime.engine.process import START_FAILED, encode_args
from octavo_runtime.parallel.messages import FromWorker, Refused, WorkerArgs

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.parallel.messages import Meeting

_GRACE: Final = 3.0  # seconds for ranks that have been told to end, less than the engine itself gets


class RankProcess:
    """Make it in the main thread: the kernel ties a child's life to the thread that made it."""

    def __init__(self, config: ServeConfig, rank: int, meeting: Meeting, interface: str | None) -> None:
        self.rank = rank
        self._size = config.tensor_parallel_size
        self._pipe, theirs = Pipe()
        with theirs:
            args = WorkerArgs(config, rank, meeting, interface, theirs.fileno(), os.getpid())
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "octavo_runtime.parallel", encode_args(args)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def send(self, message: bytes) -> None:
        self._pipe.send_bytes(message)

    def receive(self) -> FromWorker:
        """Its next answer. Raises `StartError` when it says that it cannot start, or says no more."""
        try:
            message: FromWorker = msgspec.msgpack.decode(self._pipe.recv_bytes(), type=FromWorker)
        except (EOFError, OSError) as error:
            raise errors.EngineFailed(f"rank {self.rank} ended while it was loading the model") from error
        if isinstance(message, Refused):
            raise errors.start_error(message.reason, f"rank {self.rank}: {message.message}")
        return message

    def why_it_ended(self, patience: float | None = None) -> str | None:
        """Wait for its end, at most `patience` seconds; None when it lives."""
        try:
            status = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            return None
        return f"rank {self.rank} of {self._size} ended with status {status}"

    @property
    def has_explained_itself(self) -> bool:
        """Whether it ended after it had said why, which `receive` raises."""
        return self.process.returncode == START_FAILED

    def hang_up(self) -> None:
        self._pipe.close()

    def end(self, grace: float = _GRACE) -> None:
        try:
            self.process.wait(grace)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

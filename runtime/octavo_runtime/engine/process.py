"""The engine as the API process's child: started, watched, stopped."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec

from octavo_runtime.config import ServeConfig  # noqa: TC001  msgspec reads the annotation at run time

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

START_FAILED: Final = 2  # exit status of an engine that has said why it cannot start


class EngineArgs(msgspec.Struct, frozen=True):
    """The engine's command line."""

    config: ServeConfig
    folder: Path  # where the sockets are
    page_fd: int
    parent_pid: int
    started_at: float  # time.monotonic()


Args = TypeVar("Args", bound=msgspec.Struct)


def encode_args(args: msgspec.Struct) -> str:
    return msgspec.json.encode(args, enc_hook=str).decode()


def decode_args(text: str, kind: type[Args]) -> Args:
    return msgspec.json.decode(text, type=kind, dec_hook=_decode_path)


def _decode_path(kind: type, value: str) -> Path:
    assert kind is Path, f"no decoder for {kind}"
    return Path(value)


class EngineProcess:
    """A running engine. To be made in the main thread: the kernel ties a child's life to the thread that made it."""

    def __init__(self, config: ServeConfig, *, folder: Path, page_fd: int, on_exit: Callable[[int], object]) -> None:
        """Start the process; `on_exit` is called with its exit status, from another thread, when it has ended."""
        args = EngineArgs(config, folder, page_fd, os.getpid(), time.monotonic())
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "octavo_runtime.engine", encode_args(args)],
            stdin=subprocess.DEVNULL,
            pass_fds=[page_fd],
            process_group=0,  # which its own children share, so that they can be told from ours
        )
        self._on_exit = on_exit
        self._watcher = threading.Thread(target=self._watch, name="engine-watcher", daemon=True)
        self._watcher.start()

    @property
    def alive(self) -> bool:
        return self._watcher.is_alive()

    def end(self, grace: float) -> None:
        """Wait `grace` seconds for an engine that has been told to stop, then kill it."""
        self._watcher.join(grace)
        if self._watcher.is_alive():
            logger.info("the engine does not end by itself; killing it")
            self._process.kill()
            self._watcher.join()

    def _watch(self) -> None:
        self._on_exit(self._process.wait())
        self._bury_workers()

    def _bury_workers(self) -> None:
        """Wait for children that the engine has left behind, dying: in a container they become ours, as process 1."""
        with suppress(ChildProcessError):
            while True:
                os.waitpid(-self._process.pid, 0)

"""The folder of the sockets, and what is left of those whose owner was killed.

An owner holds a lock (flock) on its folder, which the kernel releases however the owner ends. So a folder without a
lock is nobody's, and the next start removes it. Abstract sockets would leave nothing behind, but anybody in the same
network namespace can talk to them; process ids in names say nothing where a volume outlives its containers.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

_PREFIX: Final = "octavo-engine-"
_FILES: Final = ("in", "out")


class SocketFolder:
    """A new, empty folder that only this user can enter."""

    def __init__(self) -> None:
        self.path, self._lock = _make()

    def remove(self) -> None:
        _clear(self.path)
        os.close(self._lock)


def remove_abandoned_folders() -> None:
    """Remove this user's folders whose owner is gone. One that holds anything but sockets of ours is left alone."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or just removed by its owner
            lock = _open(path)
            try:
                if os.fstat(lock).st_uid == os.getuid():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _clear(path)
            finally:
                os.close(lock)


def _make() -> tuple[Path, int]:
    """A folder and the descriptor that holds its lock. Made again when a start beside us was faster and removed it."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=_PREFIX))  # mode 0700
        with suppress(FileNotFoundError):
            lock = _open(path)
            fcntl.flock(lock, fcntl.LOCK_EX)
            if path.exists():
                return path, lock
            os.close(lock)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)


def _clear(path: Path) -> None:
    for name in _FILES:
        (path / name).unlink(missing_ok=True)
    path.rmdir()

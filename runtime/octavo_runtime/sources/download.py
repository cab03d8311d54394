"""A remote model into a local folder, in one piece or not at all.

    <cache>/<key>.part/model.safetensors.part    bytes so far; kept when we end, however we end
    <cache>/<key>.part/config.json               checked and whole
    <cache>/<key>/                               all files are whole: the folder is renamed at the end
    <cache>/<key>.lock                           held while somebody fetches

A later start goes on where the last one ended. The key holds the revision and the files that were chosen, so bytes of
two versions never meet. Where the storage knows a digest of a file, its content is checked against it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, Protocol

from octavo_runtime.errors import ModelFetchFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from octavo_runtime.sources.choose import RemoteFile

logger = logging.getLogger(__name__)

CONFIG: Final = "config.json"
_PARALLEL: Final = 4  # files at a time
_RETRIES: Final = 8  # in a row without a byte of progress
_LONGEST_WAIT: Final = 30.0  # seconds between two tries
_LOCK_POLL: Final = 0.5  # seconds
_HASH_CHUNK: Final = 1 << 20


class Interrupted(Exception):  # noqa: N818
    """The transfer broke in a way that another try may mend: network, timeout, an overloaded server."""


class Remote(Protocol):
    """Storage that holds a model."""

    def read(self, file: RemoteFile, start: int) -> Iterator[bytes]:
        """The bytes of `file` from `start` on. Raises `Interrupted`, or `StartError` when it is of no use to go on."""
        ...


class Download:
    """Fetches `files` of `remote` into `folder`; `done` counts the bytes that are there."""

    def __init__(
        self,
        remote: Remote,
        files: Sequence[RemoteFile],
        folder: Path,
        sleep: Callable[[float], None] = time.sleep,
        check: Callable[[Path], object] = lambda _: None,
    ) -> None:
        """`check` is called with the model's configuration before any other file is fetched; what it raises ends it."""
        self._remote = remote
        self._files = files
        self._folder = folder
        self._part = folder.with_name(folder.name + ".part")
        self._sleep = sleep
        self._check_config = check
        self._done: dict[str, int] = {}
        self._stop = threading.Event()

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self._files)

    @property
    def done(self) -> int:
        """Bytes on disk, whoever fetches them."""
        if self._folder.exists():
            return self.total
        return sum(list(self._done.values())) if self._done else sum(map(self._on_disk, self._files))

    def run(self) -> Path:
        """Return the folder once it is whole. Raises `ModelFetchFailed`, and what `Remote.read` raises for good."""
        try:
            with self._alone():
                if not self._folder.exists():
                    self._fetch_all()
        except OSError as error:
            raise self._failed(error) from error
        return self._folder

    def _fetch_all(self) -> None:
        self._part.mkdir(parents=True, exist_ok=True)
        self._check_space()
        self._done = {file.name: self._on_disk(file) for file in self._files}
        for config in [file for file in self._files if file.name == CONFIG]:
            self._fetch(config)
            self._check_config(self._part / CONFIG)
        with ThreadPoolExecutor(_PARALLEL, thread_name_prefix="fetch") as pool:
            pending = [pool.submit(self._fetch, file) for file in self._files]
            try:
                for future in pending:
                    future.result()
            except BaseException:
                self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        _sync(self._part)
        self._part.rename(self._folder)
        _sync(self._folder.parent)

    def _fetch(self, file: RemoteFile) -> None:
        """One file, with as many tries as it takes."""
        whole, part = self._part / file.name, self._part / (file.name + ".part")
        failures = 0
        while not whole.exists() and not self._stop.is_set():
            before = self._on_disk(file)
            try:
                self._append(file, part)
                self._check(file, part)
                part.rename(whole)
            except Interrupted as error:
                if self._stop.is_set():
                    return
                failures = 1 if self._on_disk(file) > before else failures + 1
                if failures > _RETRIES:
                    raise ModelFetchFailed(f"{file.name}: {error}; given up after {failures} tries") from error
                wait = min(_LONGEST_WAIT, 2.0 ** (failures - 1))
                logger.warning("%s: %s; trying again in %g s", file.name, error, wait)
                self._sleep(wait)

    def _append(self, file: RemoteFile, part: Path) -> None:
        start = part.stat().st_size if part.exists() else 0
        if start > file.size:  # never written by us
            part.unlink()
            start = 0
        with part.open("ab") as out:
            if start < file.size:
                for data in self._remote.read(file, start):
                    out.write(data)
                    self._done[file.name] = start = start + len(data)
                    if self._stop.is_set():
                        raise Interrupted("another file failed")
            out.flush()
            os.fsync(out.fileno())
        if start < file.size:
            raise Interrupted(f"{start} of {file.size} bytes came")

    def _check(self, file: RemoteFile, part: Path) -> None:
        """What came is what was announced; otherwise it is fetched anew."""
        if part.stat().st_size == file.size and (not file.digest or _digest(part, file) == file.digest):
            return
        part.unlink()
        self._done[file.name] = 0
        raise Interrupted("its content is not what the storage announced")

    def _on_disk(self, file: RemoteFile) -> int:
        for path in (self._part / file.name, self._part / (file.name + ".part")):
            try:
                return path.stat().st_size
            except OSError:
                continue
        return 0

    def _check_space(self) -> None:
        missing = self.total - sum(map(self._on_disk, self._files))
        free = shutil.disk_usage(self._part).free
        if missing > free:
            raise ModelFetchFailed(
                f"disk full: {missing / 1e6:.1f} MB are to be fetched and {free / 1e6:.1f} MB are free in "
                f"{self._folder.parent} (--download-dir)"
            )

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Wait until nobody else fetches the same; the kernel lets go of the lock when a process ends."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        with self._folder.with_name(self._folder.name + ".lock").open("w") as lock:
            waiting = False
            while not _locked(lock.fileno()):
                if not waiting:
                    logger.info("another process is fetching the same; waiting for it")
                waiting = True
                self._sleep(_LOCK_POLL)
            yield

    def _failed(self, error: OSError) -> ModelFetchFailed:
        where = f"{self._folder.parent} (--download-dir)"
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            return ModelFetchFailed(f"disk full: {error.strerror}, in {where}")
        return ModelFetchFailed(f"cannot write to {where}: {error}")


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _digest(path: Path, file: RemoteFile) -> str:
    """Of the kind that `file.digest` is: sha256 of the content, or git's name of a blob."""
    kind = file.digest.partition(":")[0]
    if kind == "sha256":
        state = hashlib.sha256()
    else:
        state = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as content:
        while data := content.read(_HASH_CHUNK):
            state.update(data)
    return f"{kind}:{state.hexdigest()}"


def _sync(folder: Path) -> None:
    """Have the names in `folder` on disk before anything that follows from them."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)

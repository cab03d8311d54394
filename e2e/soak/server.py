"""A real `octavo serve`, and everything of it that could leak."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

import httpx

from models import smollm2_safetensors

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

T = TypeVar("T")

START_WAIT = 300.0  # seconds


def poll(condition: Callable[[], T], what: str, seconds: float) -> T:
    """Poll until `condition()` is true, and return what it returned. Raises `TimeoutError`."""
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)
    return result


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a server holds of the machine."""

    children: int
    threads: int
    descriptors: int
    state_pages: int  # mapped segments of shared memory
    socket_folders: int


class Server:
    """SmolLM2-135M-Instruct in fp32, or its configuration and tokenizer alone behind the simulated runner."""

    def __init__(self, runner: str, *flags: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="soak-"))
        self._log = self.folder / "server.log"
        command = [sys.executable, "-m", "octavo_runtime", "serve", str(smollm2_safetensors()), "--runner", runner]
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", "0", *flags],
                stderr=log,
                env=os.environ | {"TMPDIR": str(self.folder)},
            )

    def __enter__(self) -> Self:
        try:
            poll(self._port, "listening", START_WAIT)
            self.client = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
            poll(self.ready, "ready", START_WAIT)
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        self.end()

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.folder)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port()}"

    def ready(self) -> bool:
        return self.client.get("/readyz").status_code == 200

    def log(self) -> str:
        return self._log.read_text()

    def _port(self) -> int:
        if self.process.poll() is not None:
            raise RuntimeError(f"the server ended with status {self.process.returncode}:\n{self.log()}")
        found = re.search(r"listening on .* port (\d+)", self.log())
        return int(found[1]) if found else 0

    def children(self) -> list[int]:
        return [int(pid) for pid in (self._proc() / f"task/{self.process.pid}/children").read_text().split()]

    def metric(self, name: str) -> float:
        """The sum of a metric's samples over its labels."""
        samples = re.findall(rf"^{re.escape(name)}\{{.*\}} (\S+)$", self.client.get("/metrics").text, re.MULTILINE)
        if not samples:
            raise KeyError(name)
        return sum(map(float, samples))

    def is_idle(self) -> bool:
        """Nothing runs, nothing waits, every block is free."""
        names = ("octavo_requests_running", "octavo_requests_waiting", "octavo_kv_tokens_used")
        return not any(self.metric(name) for name in names)

    def complete(self, **fields: Any) -> httpx.Response:
        return self.client.post("/v1/completions", json={"prompt": "a", "max_tokens": 1, "ignore_eos": True} | fields)

    def footprint(self) -> Footprint:
        proc = self._proc()
        return Footprint(
            children=len(self.children()),
            threads=len(list((proc / "task").iterdir())),
            descriptors=len(list((proc / "fd").iterdir())),
            state_pages=(proc / "maps").read_text().count("octavo-state"),
            socket_folders=len(self.socket_folders()),
        )

    def socket_folders(self) -> list[Path]:
        return list(self.folder.glob("octavo-*"))

    def stop(self) -> list[str]:
        """Ask the server to end; return what is left of it then, in words."""
        port, children = self._port(), self.children()
        self.process.send_signal(signal.SIGTERM)
        left = []
        if (status := self.process.wait(60)) != 0:
            left.append(f"exit status {status}")
        left += [f"child {pid}" for pid in children if Path(f"/proc/{pid}").exists()]
        left += [f"folder {path.name}" for path in self.socket_folders()]
        if not _can_listen(port):
            left.append(f"port {port}")
        return left

    def _proc(self) -> Path:
        return Path(f"/proc/{self.process.pid}")


def _can_listen(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
        return True
    return False


def resident_bytes(pid: int) -> int:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) << 10 if found else 0

"""Processes that outlive us, known by pid *and* start time, so that a recycled pid is never mistaken for ours.

A process of ours also carries `OCTAVO_STATE=<state folder>` in its environment: what was started in the instant between
the fork and the pid file is found too.
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from cluster.errors import ClusterError

MARKER = "OCTAVO_STATE"


@dataclass(frozen=True)
class ProcessId:
    """A process that no later process can be confused with."""

    pid: int
    started: int
    """Clock ticks after boot, field 22 of /proc/PID/stat."""
    boot: str


def boot_id(proc: Path = Path("/proc")) -> str:
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def identify(pid: int, proc: Path = Path("/proc")) -> ProcessId | None:
    """The identity of a living process; None for one that is gone or a zombie."""
    try:
        stat = (proc / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name in parentheses may itself hold spaces and parentheses.
    fields = stat[stat.rindex(")") + 2 :].split()
    if fields[0] in "ZX":
        return None
    return ProcessId(pid, int(fields[19]), boot_id(proc))


def is_alive(process: ProcessId, proc: Path = Path("/proc")) -> bool:
    return identify(process.pid, proc) == process


def write_pid_file(path: Path, process: ProcessId) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".new")
    unfinished.write_text(json.dumps(asdict(process)))
    unfinished.replace(path)


def read_pid_file(path: Path) -> ProcessId | None:
    """The process a pid file names; None where there is no file or it was cut off."""
    try:
        return ProcessId(**json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a daemon needs of our environment, and no proxies, tokens or language settings beside it."""
    path = os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
    return {"PATH": path, "HOME": os.environ.get("HOME", "/"), **(extra or {})}


def start_daemon(name: str, command: Sequence[str | Path], state: Path) -> ProcessId:
    """Starts a process in its own session, logging to `logs/NAME.log`, recorded in `pids/NAME.json`."""
    log = state / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        child = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=clean_environment({MARKER: str(state)}),
            start_new_session=True,
        )
    child.returncode = 0  # It outlives us on purpose: no warning from Popen's finaliser.
    process = identify(child.pid)
    if process is None:
        raise ClusterError(f"{name} ended at once: read {log}")
    write_pid_file(state / "pids" / f"{name}.json", process)
    return process


def start_child(name: str, command: Sequence[str | Path], state: Path) -> "subprocess.Popen[bytes]":
    """Starts a process that the kernel kills when the thread that started it ends."""
    log = state / "logs" / f"{name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "--", *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            cwd="/",
            env=clean_environment({MARKER: str(state)}),
            start_new_session=True,
        )


def all_processes(proc: Path = Path("/proc")) -> Iterator[int]:
    return (int(entry.name) for entry in proc.iterdir() if entry.name.isdigit())


def marked_processes(state: Path, proc: Path = Path("/proc")) -> list[int]:
    """Processes whose environment or command line names this state folder: daemons of ours and containerd's shims."""
    marker = f"{MARKER}={state}".encode()
    below = f"{state}/".encode()
    return [pid for pid in all_processes(proc) if pid != os.getpid() and _is_marked(proc / str(pid), marker, below)]


def _is_marked(folder: Path, marker: bytes, below: bytes) -> bool:
    try:
        if marker in (folder / "environ").read_bytes().split(b"\0"):
            return True
        words = (folder / "cmdline").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return words[0].rsplit(b"/")[-1].startswith(b"containerd-shim") and any(w.startswith(below) for w in words)


def kill_all(pids: Iterable[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def wait_until(condition: Callable[[], bool], timeout: float, interval: float = 0.05) -> bool:
    """Polls until the condition holds; False when `timeout` seconds have passed."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(interval)
    return True


def last_lines(log: Path, count: int = 5) -> str:
    """The end of a log, for an error message."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return "(no log)"
    return "\n".join(lines[-count:])

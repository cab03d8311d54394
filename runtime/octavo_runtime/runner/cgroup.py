"""CPU and memory limits of the control group that this process runs in, versions 1 and 2.

In a container the group is usually mounted as the root of /sys/fs/cgroup, while /proc/self/cgroup may still give the
host's path. So a limit is looked for at the path, in its parents and at the root, and the smallest found counts.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT: Final = Path("/")
_UNLIMITED: Final = 1 << 60  # bytes; version 1 writes "no limit" as a number near 2^63


def cpu_quota(root: Path = _ROOT) -> float | None:
    """CPUs that the group may use, such as 1.5; None without a limit. `root` holds `proc` and `sys`."""
    return min(_cpu_quotas(root), default=None)


def free_memory(root: Path = _ROOT) -> int | None:
    """Bytes that the group may still take before its limit, page cache counted as free; None without a limit."""
    return min(_free_memories(root), default=None)


def _cpu_quotas(root: Path) -> Iterator[float]:
    for folder in _folders(root, ""):
        match _words(folder / "cpu.max"):
            case [quota, period] if quota != "max":
                yield int(quota) / int(period)
    for folder in _folders(root, "cpu"):
        allowed, per = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
        if allowed and per and allowed > 0:  # -1: no limit
            yield allowed / per


def _free_memories(root: Path) -> Iterator[int]:
    for folder in _folders(root, ""):
        yield from _free(folder, limit="memory.max", usage="memory.current", cache="inactive_file")
    for folder in _folders(root, "memory"):
        limit, usage = "memory.limit_in_bytes", "memory.usage_in_bytes"
        yield from _free(folder, limit=limit, usage=usage, cache="total_inactive_file")


def _free(folder: Path, *, limit: str, usage: str, cache: str) -> Iterator[int]:
    most, used = _number(folder / limit), _number(folder / usage)
    if most is None or used is None or most >= _UNLIMITED:
        return
    yield max(0, most - used + _statistic(folder / "memory.stat", cache))


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The group's folders from its own up to the mount's; `controller` is "" for version 2."""
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, names, path = line.split(":", 2)
            if controller not in names.split(","):
                continue
            mount = root / "sys/fs/cgroup" / names
            own = mount / path.lstrip("/")
            yield from (folder for folder in (own, *own.parents) if folder == mount or mount in folder.parents)


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _number(file: Path) -> int | None:
    match _words(file):
        case [word] if word.lstrip("-").isdigit():
            return int(word)
    return None


def _statistic(file: Path, name: str) -> int:
    words = _words(file)
    return int(words[words.index(name) + 1]) if name in words else 0

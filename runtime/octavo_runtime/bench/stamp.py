"""Where a figure comes from: versions and machine, as far as they are known without importing anything heavy."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

_ROOT: Final = Path("/")


def versions() -> dict[str, str | None]:
    """None: not installed."""
    return {
        "octavo": _version("octavo-runtime"),
        "torch": _version("torch"),
        "transformers": _version("transformers"),
        "python": platform.python_version(),
    }


def machine(root: Path = _ROOT) -> dict[str, Any]:
    """The machine that this process runs on. `memory` is in bytes; `cores` are those that this process may use."""
    return {
        "cpu": _field(_read(root / "proc/cpuinfo"), "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": int((_field(_read(root / "proc/meminfo"), "MemTotal") or "0").split()[0]) * 1024,
        "gpus": [_field(_read(file), "Model") or "unknown" for file in _gpu_files(root)],
        "gpu_driver": _driver(root),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _gpu_files(root: Path) -> list[Path]:
    return sorted((root / "proc/driver/nvidia/gpus").glob("*/information"))


def _driver(root: Path) -> str | None:
    found = re.search(r"Kernel Module.*?(\d+\.\d+(?:\.\d+)?)", _read(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def _field(text: str, name: str) -> str | None:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", text, re.MULTILINE)
    return found[1].strip() if found else None


def _read(file: Path) -> str:
    try:
        return file.read_text(errors="replace")
    except OSError:
        return ""

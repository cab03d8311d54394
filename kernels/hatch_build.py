"""Compiles native/*.cpp into the wheel (or, for an editable install, beside the package's sources).

One library per instruction set, from the same sources. Without a compiler, or where it fails, the package is installed
without them and works more slowly; octavo_kernels says so when it chooses its backend.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, Final

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_TARGETS: Final = {
    "x86_64": {
        "avx2": ["-mavx2", "-mfma"],
        "avx512": ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mprefer-vector-width=512"],
    },
    "aarch64": {"neon": ["-march=armv8-a"]},
}
_FLAGS: Final = [
    "-std=c++17", "-O3", "-fPIC", "-fopenmp", "-ffp-contract=fast", "-fno-math-errno",
    "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-Wall", "-Wextra", "-Werror",
]  # fmt: skip


class NativeBuildHook(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        editable = version == "editable"
        self._scratch = tempfile.TemporaryDirectory()
        folder = Path(self.root, "octavo_kernels/build") if editable else Path(self._scratch.name)
        built = build(Path(self.root, "native"), folder)
        if not built:
            return
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        if not editable:
            build_data["force_include"] |= {str(file): f"octavo_kernels/build/{file.name}" for file in built}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        del version, build_data, artifact_path
        self._scratch.cleanup()


def build(sources: Path, folder: Path) -> list[Path]:
    """Compile for every instruction set of this machine's kind; those that failed are left out, with a warning."""
    compiler = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("c++")
    if compiler is None:
        _warn("no C++ compiler is here")
        return []
    folder.mkdir(parents=True, exist_ok=True)
    targets = _TARGETS.get(platform.machine(), {})
    built = (compile_one(compiler, sources, folder / f"native-{name}.so", flags) for name, flags in targets.items())
    return [file for file in built if file is not None]


def compile_one(compiler: str, sources: Path, target: Path, flags: list[str]) -> Path | None:
    """Compile and link apart: linked with -fopenmp, the library would bring an OpenMP of its own beside torch's."""
    with tempfile.TemporaryDirectory() as scratch:
        objects = [Path(scratch, f"{source.stem}.o") for source in sorted(sources.glob("*.cpp"))]
        new = Path(scratch, target.name)
        commands = [
            [compiler, *_FLAGS, *flags, "-c", str(sources / f"{file.stem}.cpp"), "-o", str(file)] for file in objects
        ]
        commands.append([compiler, "-shared", *map(str, objects), "-o", str(new)])
        for command in commands:
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                _warn(f"{target.name} cannot be built: {done.stderr.strip()[-2000:]}")
                return None
        # A running process may have the old file mapped: it keeps that one.
        unfinished = target.with_suffix(".new")
        shutil.copy(new, unfinished)
        unfinished.replace(target)
    return target


def _warn(what: str) -> None:
    sys.stderr.write(f"octavo-kernels is installed without its compiled library: {what}\n")


if __name__ == "__main__":
    here = Path(__file__).parent
    sys.exit(not build(here / "native", here / "octavo_kernels" / "build"))

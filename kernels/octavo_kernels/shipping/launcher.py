"""The part of Triton that talks to the CUDA driver, compiled beforehand.

Triton compiles kernels by itself, with what its wheel has, but not the C extension that loads and launches them: that
takes a C compiler, Python's headers and the driver's library on the machine that serves. Here it is compiled where the
first two are; the driver's functions are left to be found when it is loaded. It needs nothing of Octavo, so that the
build of an image can run this file alone:

    python launcher.py FOLDER

Source of the recipe: triton/runtime/build.py and triton/backends/nvidia/driver.py, 3.9.0.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

NAME = f"cuda_utils{sysconfig.get_config_var('EXT_SUFFIX')}"
_DRIVER = "libcuda.so.1"


def build(folder: Path) -> Path:
    """Compiles it into `folder` with $CC, or cc. Raises CalledProcessError where the compiler says no."""
    spec = find_spec("triton")
    assert spec is not None, "triton is a dependency"
    assert spec.origin is not None, "triton is a package with files"
    source = Path(spec.origin).parent / "backends/nvidia"
    compiler = os.environ.get("CC", "cc")
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # Named as a library that is needed, and not there while it is linked: an empty one stands for it.
        stub = [f"-Wl,-soname,{_DRIVER}", "-shared", "-x", "c", "/dev/null", "-o", f"{scratch}/{_DRIVER}"]
        subprocess.run([compiler, *stub], check=True)
        headers = [f"-I{source / 'include'}", f"-I{sysconfig.get_path('include')}"]
        link = ["-Wl,--no-as-needed", f"-L{scratch}", f"-l:{_DRIVER}"]
        command = [compiler, str(source / "driver.c"), "-O3", "-shared", "-fPIC", *headers, *link, "-ldl"]
        subprocess.run([*command, "-o", str(folder / NAME)], check=True)
    return folder / NAME


if __name__ == "__main__":
    build(Path(sys.argv[1]))

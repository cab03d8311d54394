"""The Triton kernels compile for the GPUs that Octavo serves on, and fit into their shared memory, with no GPU here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

KIB = 1 << 10
SHARED_MEMORY = {80: 163 * KIB, 89: 99 * KIB, 90: 227 * KIB, 100: 227 * KIB}  # per block: A100, L40S, H100, B200


def test_every_kernel_compiles_and_fits(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-W", "error", Path(__file__).with_name("compile_kernels.py")],
        env={**environment, "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    compiled = [json.loads(line) for line in done.stdout.splitlines()]
    assert {entry["sm"] for entry in compiled} == SHARED_MEMORY.keys()
    for entry in compiled:
        assert entry["shared"] <= SHARED_MEMORY[entry["sm"]], entry

"""What a run's figures belong to: the card, its driver and clocks, and versions."""

from __future__ import annotations

import subprocess

import torch
import triton

_ASKED = "driver_version,clocks.max.sm,clocks.max.mem,power.limit"


def describe() -> dict[str, str]:
    return {
        "card": torch.cuda.get_device_name(),
        **_driver(),
        "cuda": str(torch.version.cuda),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def l2_bytes_of(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def _driver() -> dict[str, str]:
    """Of nvidia-smi, for the GPU that it lists first; a run is not lost for a container without it."""
    command = ["nvidia-smi", f"--query-gpu={_ASKED}", "--format=csv,noheader"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
        parts = [part.strip() for part in answer.splitlines()[0].split(",")]
        return dict(zip(_ASKED.split(","), parts, strict=True))
    except (OSError, subprocess.SubprocessError, IndexError, ValueError) as error:
        return {"nvidia-smi": f"{type(error).__name__}: {error}"}

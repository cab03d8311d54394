"""What this machine offers a runner: threads, memory and a dtype that is fast on it."""

from __future__ import annotations

import contextlib
import ctypes
import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.cache_dtype import FP8, INT8, LEAST_EIGHT_BIT_ARCHITECTURE
from octavo_runtime.errors import InvalidArgument
from octavo_runtime.runner.cgroup import cpu_quota, free_memory

if TYPE_CHECKING:
    from octavo_runtime.model.spec import ModelInfo

DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CACHE_DTYPES: Final = {"fp8_e4m3": FP8, "int8": INT8}  # by --kv-cache-dtype; "auto" is the dtype that is computed in
_ROOT: Final = Path("/")


def choose_threads(root: Path = _ROOT) -> int:
    """Whole CPUs of the cgroup's quota, at most those that this process may run on, at least 1.

    One thread more than the quota pays for is throttled in the middle of a parallel loop and all others wait for it.
    """
    allowed = len(os.sched_getaffinity(0))
    quota = cpu_quota(root)
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def choose_step_tokens(device: torch.device) -> int:
    """The token budget of a step: as much as keeps a GPU busy; on a CPU less, since all decodes wait for a long step.

    (At 500 prompt tokens per second, which two cores do with a model of 135 M parameters, 2048 tokens are 4 s.)
    """
    return 512 if device.type == "cpu" else 2048


def choose_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_dtype(asked: str, info: ModelInfo, device: torch.device) -> torch.dtype:
    """The asked dtype; for "auto" the checkpoint's on a GPU, and on a CPU what it computes fast.

    Without bf16 instructions (AVX2 alone) bfloat16 loses to fp32 from batch 2 on and is 4 to 6 times slower in prefill.
    """
    if asked != "auto":
        return DTYPES[asked]
    if device.type != "cpu":
        return DTYPES[info.dtype]
    return torch.bfloat16 if info.dtype == "bfloat16" and _cpu_has_bf16() else torch.float32


def choose_cache_dtype(asked: str, dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """What keys and values are stored as, in a model that computes in `dtype`.

    Raises `InvalidArgument` for eight bits on a GPU whose kernels do not convert them (before compute capability 8.0).
    """
    if asked == "auto":
        return dtype
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < divmod(LEAST_EIGHT_BIT_ARCHITECTURE, 10):
        major, minor = torch.cuda.get_device_capability(device)
        raise InvalidArgument(
            f"--kv-cache-dtype {asked} needs a GPU of compute capability 8.0 or later; this one's is {major}.{minor}"
        )
    return CACHE_DTYPES[asked]


def host_free_memory(root: Path = _ROOT) -> int:
    """Bytes that this process can still take: what the machine has and the cgroup allows."""
    available = _available_memory((root / "proc/meminfo").read_text())
    allowed = free_memory(root)
    return available if allowed is None else min(available, allowed)


def return_free_memory() -> None:
    """Give the kernel back what the allocator keeps of memory that was freed; where the C library can (glibc).

    Loading leaves holes between the packed weights, from parts of the checkpoint that are gone again.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())  # noqa: SLF001  no public form


def _available_memory(meminfo: str) -> int:
    for line in meminfo.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")

"""The compiled library of `kernels/native`: found, loaded, and its functions given their types.

It is plain C towards the outside, so that building it needs a compiler and no torch. Its loops run on torch's own
OpenMP threads: it is linked without an OpenMP library and finds those functions in the one that torch has loaded. (A
second OpenMP library beside torch's makes each wait for the other's threads: steps took 2.5 times as long.)
"""

from __future__ import annotations

import ctypes
import os
import platform
import re
from ctypes import POINTER, c_bool, c_float, c_int, c_int64, c_long, c_void_p
from functools import cache
from pathlib import Path
from typing import Final

import torch

ABI: Final = 1
_FOLDER: Final = Path(__file__).with_name("build")
_OPENMP: Final = re.compile(r"/\S*lib(?:g|i)?omp[^/\s]*\.so[^/\s]*$", re.MULTILINE)


class LibraryError(Exception):
    """The compiled library cannot be used here; the message says why."""


class AttentionCall(ctypes.Structure):
    """`OctavoAttention` of native/attention.cpp, field by field."""

    _fields_ = (
        ("query", c_void_p),
        ("key_cache", c_void_p),
        ("value_cache", c_void_p),
        ("out", c_void_p),
        ("query_start_loc", c_void_p),
        ("seq_lens", c_void_p),
        ("block_table", c_void_p),
        ("query_stride", c_int64),
        ("table_stride", c_int64),
        ("num_sequences", c_int64),
        ("num_heads", c_int64),
        ("num_kv_heads", c_int64),
        ("head_dim", c_int64),
        ("block_size", c_int64),
        ("window", c_int64),
        ("scale", c_float),
        ("soft_cap", c_float),
    )


_SIGNATURES: Final = {
    "octavo_attend": (None, [POINTER(AttentionCall), c_bool]),
    "octavo_write_kv": (None, [c_void_p, c_void_p, c_long, c_long, *[c_void_p] * 3, *[c_long] * 4]),
    "octavo_rms_norm": (None, [c_void_p, *[c_long] * 4, c_void_p, c_float, c_void_p]),
    "octavo_rotate": (None, [c_void_p, *[c_long] * 4, c_void_p, c_void_p, c_long]),
    "octavo_gated": (None, [c_void_p, c_long, c_long, c_int, c_void_p]),
    "octavo_panel": (c_long, []),
    "octavo_is_bfloat16": (c_bool, [c_void_p, c_long]),
    "octavo_pack": (None, [c_void_p, c_long, c_long, c_bool, c_void_p]),
    "octavo_linear": (None, [c_void_p, c_long, c_long, c_void_p, c_bool, c_void_p, c_long, c_void_p]),
}


@cache
def load_library() -> ctypes.CDLL:
    """The library built for this processor. Raises `LibraryError`."""
    file = _FOLDER / f"native-{instruction_set()}.so"
    if not file.exists():
        raise LibraryError(f"{file.name} was not built")
    _share_openmp()
    try:
        library = ctypes.CDLL(str(file))
        if library.octavo_abi() != ABI:
            raise LibraryError(f"{file.name} is of ABI {library.octavo_abi()}, not {ABI}: it has to be built anew")
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise LibraryError(f"{file.name} cannot be loaded: {error}") from error
    return library


def instruction_set() -> str:
    """Which of the builds suits this processor. Raises `LibraryError` when none does."""
    machine = platform.machine()
    capability = torch.backends.cpu.get_cpu_capability()
    if machine == "aarch64":
        return "neon"
    if machine == "x86_64" and capability in {"AVX2", "AVX512"}:
        return capability.lower()
    raise LibraryError(f"there is none for {machine} with {capability}")


def _share_openmp() -> None:
    """Let the library see the OpenMP functions that torch has loaded for itself."""
    loaded = {match.group() for match in _OPENMP.finditer(Path("/proc/self/maps").read_text())}
    if not loaded:
        raise LibraryError("torch has loaded no OpenMP library")
    own = sorted(loaded, key=lambda path: "torch" not in path)
    ctypes.CDLL(own[0], mode=ctypes.RTLD_GLOBAL | os.RTLD_NOLOAD)

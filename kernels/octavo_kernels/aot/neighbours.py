"""The configurations of the small kernels around attention: the same on every architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_kernels.aot.configurations import Configuration, source_of
from octavo_kernels.triton.gated import GATED_BLOCK, gated_kernel
from octavo_kernels.triton.rms_norm import norm_launch, rms_norm_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


def neighbours() -> Iterator[Configuration]:
    """Rows of common sizes, one that is no power of two, and single heads."""
    for size in (4096, 5120):
        yield _norm("bf16", size, add=True)
    yield _norm("bf16", 4096)
    yield _norm("fp16", 16384)
    yield _norm("bf16", 128, heads=32)
    yield _norm("bf16", 64, heads=32)
    for activation in ("silu", "gelu", "gelu_tanh"):
        yield _gated("bf16", 14336, activation)
    yield _gated("fp16", 1536, "silu")


def _norm(dtype: str, size: int, *, heads: int = 1, add: bool = False) -> Configuration:
    launch = norm_launch(size)
    constants = {"HEADS": heads, "SIZE": size, "PADDED": launch.padded, "ROWS": launch.rows, "ADD": add}
    types = {"x": f"*{dtype}", "weight": "*fp32", "out": f"*{dtype}", "num_rows": "i32", "x_stride": "i32"}
    types |= {"eps": "fp32", "residual_stride": "i32"}
    if add:
        types |= {"residual": f"*{dtype}", "total": f"*{dtype}"}
    name = f"rms_norm {dtype} {size}" + (f" heads {heads}" if heads > 1 else "") + (" and sum" if add else "")
    source = source_of(rms_norm_kernel, types, constants)
    return Configuration(name, "copy", source, {"num_warps": launch.num_warps, "enable_fp_fusion": True})


def _gated(dtype: str, width: int, activation: str) -> Configuration:
    constants = {"WIDTH": width, "BLOCK": GATED_BLOCK, "ACTIVATION": activation}
    source = source_of(gated_kernel, {"gate_up": f"*{dtype}", "out": f"*{dtype}", "stride": "i32"}, constants)
    return Configuration(
        f"gated {dtype} {width} {activation}", "copy", source, {"num_warps": 4, "enable_fp_fusion": True}
    )

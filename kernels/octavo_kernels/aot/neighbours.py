"""The configurations of the small kernels around attention and behind it: the same on every architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_kernels.aot.configurations import Configuration, fp8_of, source_of
from octavo_kernels.cache_dtype import LARGEST
from octavo_kernels.triton.adjust import ADJUST_BLOCK, adjust_kernel
from octavo_kernels.triton.draw import DRAW_BLOCK, DRAW_WARPS, draw_kernel
from octavo_kernels.triton.gated import GATED_BLOCK, gated_kernel
from octavo_kernels.triton.rms_norm import norm_launch, rms_norm_kernel
from octavo_kernels.triton.write_rotated import rotated_constants, rotated_warps, write_rotated_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator


def neighbours(architecture: int) -> Iterator[Configuration]:
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
    yield _rotated("bf16", 128, 64, norm=True)
    yield _rotated("bf16", 64, 32)
    yield _rotated("fp16", 96, 24)
    for cache in (fp8_of(architecture), "i8"):
        yield _rotated("bf16", 128, 64, norm=True, cache=cache)
    yield _draw()
    yield _adjust()


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


def _rotated(dtype: str, head_dim: int, half: int, *, norm: bool = False, cache: str | None = None) -> Configuration:
    constants = rotated_constants(num_kv_heads=8, group=4, head_dim=head_dim, half=half)
    options = {"num_warps": rotated_warps(constants), "enable_fp_fusion": True}
    types = dict.fromkeys(("query", "key", "value", "cos", "sin", "out"), f"*{dtype}")
    types |= dict.fromkeys(("key_cache", "value_cache"), f"*{cache or dtype}") | {"slot_mapping": "*i64"}
    types |= dict.fromkeys(("query_norm", "key_norm"), "*fp32") if norm else {}
    types |= dict.fromkeys(("query_stride", "key_stride", "value_stride"), "i32") | {"eps": "fp32"}
    largest = LARGEST if cache and cache != "i8" else 0.0
    switches = {"BLOCK_SIZE": 16, "NORM": norm, "LARGEST": largest, "SCALED": cache == "i8"}
    name = f"write_rotated {dtype} d{head_dim} pairs {half}" + " norm" * norm + (f" cache {cache}" if cache else "")
    return Configuration(name, "copy", source_of(write_rotated_kernel, types, {**constants, **switches}), options)


def _draw() -> Configuration:
    types = dict.fromkeys(("logits", "temperatures", "top_ps", "floors", "bests"), "*fp32")
    types |= dict.fromkeys(("top_ks", "keys", "tokens"), "*i64") | dict.fromkeys(("row_stride", "size"), "i32")
    source = source_of(draw_kernel, types, {"BLOCK": DRAW_BLOCK})
    return Configuration("draw", "copy", source, {"num_warps": DRAW_WARPS, "enable_fp_fusion": True})


def _adjust() -> Configuration:
    types = dict.fromkeys(("logits", "biases", "factors", "taken"), "*fp32") | {"places": "*i64", "count": "i32"}
    return Configuration(
        "adjust", "scatter", source_of(adjust_kernel, types, {"BLOCK": ADJUST_BLOCK}), {"enable_fp_fusion": True}
    )

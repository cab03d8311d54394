"""Compiles the Triton kernels for real GPUs, without one: a process of its own, as the tests run in the interpreter.

Prints one JSON line per kernel, shape and architecture, with the shared memory that a block needs, in bytes.
"""

from __future__ import annotations

import json
from itertools import product

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from octavo_kernels.triton.backend import LAUNCH_OPTIONS, positions_of_tile
from octavo_kernels.triton.paged_attention import paged_attention_kernel
from octavo_kernels.triton.write_kv import write_kv_kernel

ARCHITECTURES = (80, 89, 90, 100)
INDICES = ("tile_sequence", "tile_first_query", "query_start_loc", "seq_lens", "block_table")
SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}
# dtype, head_dim, query heads per KV head, rows of a tile, block size
ATTENTION = (
    ("bf16", 128, 4, 16, 16),
    ("bf16", 128, 4, 64, 64),
    ("fp16", 80, 1, 64, 16),
    ("bf16", 256, 8, 64, 128),
    ("fp32", 128, 3, 64, 16),
)


def attention(dtype: str, head_dim: int, group: int, rows: int, block_size: int) -> ASTSource:
    constants = {
        "NUM_KV_HEADS": 8,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "BLOCK_SIZE": block_size,
        "BLOCK_Q": rows // group,
        "BLOCK_M": rows,
        "BLOCK_N": positions_of_tile(head_dim, SIZES[dtype]),
        "INTERP": False,
    }
    types = {name: f"*{dtype}" for name in ("query", "key_cache", "value_cache", "out")}
    types |= dict.fromkeys(INDICES, "*i32") | {"scale_log2e": "fp32"}
    types |= dict.fromkeys(("query_stride", "out_stride", "table_stride"), "i32")
    return source(paged_attention_kernel, types, constants)


def write(dtype: str, head_dim: int) -> ASTSource:
    constants = {"NUM_KV_HEADS": 8, "HEAD_DIM": head_dim, "BLOCK_SIZE": 16, "PADDED_HEADS": 8, "PADDED_DIM": head_dim}
    types = {name: f"*{dtype}" for name in ("key", "value", "key_cache", "value_cache")}
    types |= {"slot_mapping": "*i64", "key_stride": "i32", "value_stride": "i32"}
    return source(write_kv_kernel, types, constants)


def source(kernel: triton.JITFunction, types: dict[str, str], constants: dict[str, object]) -> ASTSource:
    """Every pointer and stride divisible by 16, as torch's allocations and the models' head sizes make them."""
    names = list(kernel.arg_names)
    signature = {name: types.get(name, "constexpr") for name in names}
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name in types and types[name] != "fp32"
    }
    return ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, aligned)


def main() -> None:
    kernels = [("write_kv bf16", write("bf16", 128), {"enable_fp_fusion": True})]
    for shape in ATTENTION:
        kernels.append((f"attention {shape}", attention(*shape), LAUNCH_OPTIONS))
    for (name, kernel, options), architecture in product(kernels, ARCHITECTURES):
        compiled = triton.compile(kernel, target=GPUTarget("cuda", architecture, 32), options=options)
        import time as T; print(T.process_time(), json.dumps({"kernel": name, "sm": architecture, "shared": compiled.metadata.shared}), flush=True)


if __name__ == "__main__":
    main()

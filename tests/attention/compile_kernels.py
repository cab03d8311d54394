"""Compiles the Triton kernels for real GPUs, without one: a process of its own, as the tests run in the interpreter.

Prints one JSON line per kernel, shape and architecture, with the shared memory that a block needs, in bytes.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from octavo_kernels.triton.backend import LAUNCH_OPTIONS, tile_shape
from octavo_kernels.triton.paged_attention import paged_attention_kernel
from octavo_kernels.triton.write_kv import write_kv_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

ARCHITECTURES = (80, 89, 90, 100)
INDICES = ("tile_sequence", "tile_first_query", "query_start_loc", "seq_lens", "block_table")
SIZES = {"bf16": 2, "fp16": 2, "fp32": 4}
# dtype, head_dim, query heads per KV head, longest query, block size; architectures
ATTENTION = {
    ("bf16", 128, 4, 1, 16): ARCHITECTURES,
    ("bf16", 128, 4, 512, 64): ARCHITECTURES,
    ("bf16", 256, 8, 512, 128): (89,),  # the least shared memory
    ("fp32", 128, 3, 512, 16): (89,),
}


def attention(dtype: str, head_dim: int, group: int, max_query_len: int, block_size: int) -> ASTSource:
    rows, columns = tile_shape(max_query_len, group, head_dim, SIZES[dtype])
    constants = {
        "NUM_KV_HEADS": 8,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "BLOCK_SIZE": block_size,
        "BLOCK_Q": rows // group,
        "BLOCK_M": rows,
        "BLOCK_N": columns,
        "INTERP": False,
    }
    types = dict.fromkeys(("query", "key_cache", "value_cache", "out"), f"*{dtype}")
    types |= dict.fromkeys(INDICES, "*i32") | {"scale_log2e": "fp32"}
    types |= dict.fromkeys(("query_stride", "out_stride", "table_stride"), "i32")
    return source(paged_attention_kernel, types, constants)


def write(dtype: str, head_dim: int) -> ASTSource:
    constants = {"NUM_KV_HEADS": 8, "HEAD_DIM": head_dim, "BLOCK_SIZE": 16, "PADDED_HEADS": 8, "PADDED_DIM": head_dim}
    types = dict.fromkeys(("key", "value", "key_cache", "value_cache"), f"*{dtype}")
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
    report("write_kv", write("bf16", 128), ARCHITECTURES, {"enable_fp_fusion": True})
    for shape, architectures in ATTENTION.items():
        report(f"paged_attention {shape}", attention(*shape), architectures, LAUNCH_OPTIONS)


def report(name: str, kernel: ASTSource, architectures: Iterable[int], options: dict[str, object]) -> None:
    for architecture in architectures:
        compiled = triton.compile(kernel, target=GPUTarget("cuda", architecture, 32), options=options)
        print(json.dumps({"kernel": name, "sm": architecture, "shared": compiled.metadata.shared}), flush=True)


if __name__ == "__main__":
    main()

"""The kernel configurations that are compiled and held to a budget: the ways in which the backend launches kernels."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import triton
from triton.compiler import ASTSource

from octavo_kernels.cache_dtype import FP8_ARCHITECTURE, LARGEST
from octavo_kernels.triton.boxes import padded_dim
from octavo_kernels.triton.launches import MERGE_OPTIONS, MERGED_ROWS, MOST_COLUMNS, choose_launch
from octavo_kernels.triton.merge import merge_kernel
from octavo_kernels.triton.paged_attention import paged_attention_kernel
from octavo_kernels.triton.splits import merge_splits_kernel
from octavo_kernels.triton.write_kv import write_kv_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# exact: fp32, whose products no tensor core computes; scatter: single numbers here and there, which no load joins
Kind = Literal["decode", "prefill", "exact", "copy", "scatter"]

ARCHITECTURES: Final = (80, 89, 90, 100)  # A100, L40S, H100 and H200, B200
_INDICES: Final = (
    *("units", "program_unit", "program_tile", "program_end"),
    *("query_start_loc", "seq_lens", "block_table"),
)
_PARTS: Final = ("partial", "partial_largest", "partial_total")
_SIZES: Final = {"bf16": 2, "fp16": 2, "fp32": 4, "fp8e4nv": 1, "u8": 1, "i8": 1}
_E4M3: Final = {"fp8e4nv", "u8"}
_NUM_KV_HEADS: Final = 8
_SMALLEST: Final = 89
_WITH_BOXES: Final = {90, 100}


@dataclass(frozen=True, slots=True)
class Configuration:
    """One kernel with all its constants, as it is launched on one architecture."""

    name: str  # the key in the budget file
    kind: Kind
    source: ASTSource
    options: dict[str, Any]
    copy_bits: int = 128  # least width of an asynchronous copy
    programs: int = 0  # per multiprocessor, that are taken to run at once; 0: any number will do
    boxes: bool = False  # keys and values through tensor descriptors


def configurations(architecture: int) -> Iterator[Configuration]:
    """Every configuration for `architecture`, the ones of most use first."""
    for head_dim in (64, 128):
        for block_size in (16, 64):
            yield _attention(architecture, "bf16", head_dim, group=4, max_query_len=1, block_size=block_size)
    for head_dim in (64, 128, 256):
        yield _attention(architecture, "bf16", head_dim, group=4, max_query_len=512, block_size=64)
    yield _attention(architecture, "bf16", 128, group=4, max_query_len=1, block_size=16, window=4096, soft_cap=50.0)
    yield _attention(architecture, "fp16", 96, group=8, max_query_len=1, block_size=32)
    if architecture == _SMALLEST:  # the least shared memory: what fits here fits everywhere
        yield _attention(architecture, "bf16", 256, group=8, max_query_len=512, block_size=128)
        yield _attention(architecture, "fp32", 128, group=3, max_query_len=512, block_size=16)
    if architecture in _WITH_BOXES:
        yield from _prefills_with_boxes(architecture)
    for head_dim in (64, 128):
        yield _attention(architecture, "bf16", head_dim, group=4, max_query_len=1, block_size=16, split=2048)
    yield from _other_decodes(architecture)
    yield _write_kv("bf16", 128)
    yield _merge_splits("bf16", 128, rows=128, group=4)
    yield _merge("bf16", 128, rows=16, group=4)
    yield _merge("bf16", 64, rows=16, group=8, per_head="sinks")
    for cache in (fp8_of(architecture), "i8"):
        yield from _eight_bits(architecture, cache)


def _other_decodes(architecture: int) -> Iterator[Configuration]:
    """Heads that are wide, or padded; masks; a group that is no power of two."""
    yield _attention(architecture, "bf16", 256, group=2, max_query_len=1, block_size=16, window=1024)
    yield _attention(architecture, "bf16", 80, group=1, max_query_len=1, block_size=16)
    yield _attention(architecture, "bf16", 128, group=7, max_query_len=1, block_size=32)
    yield _attention(architecture, "bf16", 64, group=8, max_query_len=1, block_size=16, window=128, per_head="sinks")
    yield _attention(architecture, "bf16", 128, group=1, max_query_len=1, block_size=16, per_head="slopes")


def _eight_bits(architecture: int, cache: str) -> Iterator[Configuration]:
    """Over caches in eight bits: decodes and prefills of every width, and each mask."""
    for head_dim in (64, 128):
        yield _attention(architecture, "bf16", head_dim, group=4, max_query_len=1, block_size=16, cache=cache)
        yield _attention(architecture, "bf16", head_dim, group=4, max_query_len=512, block_size=64, cache=cache)
    for head_dim in (80, 256):  # 96 is padded like 80, and gives the same code
        yield _attention(architecture, "bf16", head_dim, group=4, max_query_len=1, block_size=16, cache=cache)
    yield _attention(architecture, "fp16", 128, group=8, max_query_len=1, block_size=64, cache=cache)
    decode = partial(_attention, architecture, "bf16", 128, group=4, max_query_len=1, block_size=16, cache=cache)
    yield decode(window=4096, soft_cap=50.0)
    for per_head in ("sinks", "slopes"):
        yield decode(per_head=per_head)
    yield decode(split=2048)
    yield _write_kv("bf16", 128, cache=cache)


def _prefills_with_boxes(architecture: int) -> Iterator[Configuration]:
    """What takes boxes where others take pointers too, and blocks that no box fits into."""
    for head_dim in (64, 128, 256):
        yield _attention(architecture, "bf16", head_dim, group=4, max_query_len=512, block_size=16)
    yield _attention(architecture, "fp16", 96, group=8, max_query_len=512, block_size=64)
    yield _attention(architecture, "bf16", 64, group=8, max_query_len=512, block_size=64, window=128, per_head="sinks")
    yield _attention(architecture, "bf16", 64, group=4, max_query_len=512, block_size=64, split=2048)


def fp8_of(architecture: int) -> str:
    """What kernels take a cache in e4m3 for: such numbers, or their bytes (triton/e4m3.py)."""
    return "fp8e4nv" if architecture >= FP8_ARCHITECTURE else "u8"


def _attention(
    architecture: int,
    dtype: str,
    head_dim: int,
    *,
    group: int,
    max_query_len: int,
    block_size: int,
    window: int = 0,
    soft_cap: float = 0.0,
    cache: str | None = None,
    per_head: str | None = None,
    split: int = 0,
) -> Configuration:
    """`per_head`: "sinks" or "slopes", which are numbers of each head. `split`: tokens, in the batch-invariant mode."""
    launch = choose_launch(
        architecture,
        max_query_len,
        group,
        head_dim,
        _SIZES[dtype],
        cache_size=_SIZES[cache or dtype],
        scaled=cache == "i8",
        block_size=block_size,
        for_any=split > 0,
    )
    constants = {
        "NUM_KV_HEADS": _NUM_KV_HEADS,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": padded_dim(head_dim),
        "BLOCK_SIZE": block_size,
        "BLOCK_Q": launch.rows // group,
        "BLOCK_M": launch.rows,
        "BLOCK_N": launch.columns,
        "INTERP": False,
        "WINDOW": window,
        "SOFT_CAP": soft_cap,
        "SPLIT": split // launch.columns,
        "SCALED": cache == "i8",
        "HALVES": dtype == "bf16" and cache in _E4M3 and launch.is_decode,
        "BOXES": launch.boxes,
    }
    types = dict.fromkeys(("query", "out"), f"*{dtype}")
    box = f"tensordesc<{cache or dtype}[{launch.columns},{padded_dim(head_dim)}]>"
    types |= dict.fromkeys(("key_cache", "value_cache"), box if launch.boxes else f"*{cache or dtype}")
    types |= dict.fromkeys(_INDICES, "*i32") | dict.fromkeys(_PARTS, "*fp32") | {"scale_log2e": "fp32"}
    types |= dict.fromkeys(("query_stride", "out_stride", "table_stride"), "i32")
    types |= {per_head: "*fp32"} if per_head else {}
    types |= {"num_splits": "i32"} if split else {}
    kind: Kind = "exact" if dtype == "fp32" else "decode" if launch.is_decode else "prefill"
    name = f"{kind} {dtype} d{head_dim} group {group} page {block_size}" + (
        (f" window {window}" if window else "")
        + (f" cap {soft_cap}" if soft_cap else "")
        + (f" cache {cache}" if cache else "")
        + (f" {per_head}" if per_head else "")
        + (f" split {split}" if split else "")
    )
    source = source_of(paged_attention_kernel, types, constants)
    programs = launch.programs if launch.is_decode else 0
    return Configuration(name, kind, source, dict(launch.options), 64 if cache else 128, programs, launch.boxes)


def _merge(dtype: str, head_dim: int, *, rows: int, group: int, per_head: str | None = None) -> Configuration:
    constants = {
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "BLOCK_Q": rows // group,
        "BLOCK_M": rows,
        "ROWS": MERGED_ROWS,
    }
    types = dict.fromkeys(_INDICES, "*i32") | dict.fromkeys(_PARTS, "*fp32") | {"out": f"*{dtype}", "out_stride": "i32"}
    types |= {per_head: "*fp32"} if per_head else {}
    name = f"merge {dtype} d{head_dim}" + (f" {per_head}" if per_head else "")
    return Configuration(name, "copy", source_of(merge_kernel, types, constants), MERGE_OPTIONS)


def _merge_splits(dtype: str, head_dim: int, *, rows: int, group: int) -> Configuration:
    constants = {
        "NUM_KV_HEADS": _NUM_KV_HEADS,
        "GROUP": group,
        "HEAD_DIM": head_dim,
        "PADDED_DIM": triton.next_power_of_2(head_dim),
        "BLOCK_Q": rows // group,
        "BLOCK_N": MOST_COLUMNS,
        "SPLIT": 2048 // MOST_COLUMNS,
        "WINDOW": 0,
        "ROWS": MERGED_ROWS,
    }
    types = dict.fromkeys(("tile_sequence", "tile_first_query", "query_start_loc", "seq_lens"), "*i32")
    types |= dict.fromkeys(_PARTS, "*fp32") | {"out": f"*{dtype}", "out_stride": "i32", "num_splits": "i32"}
    source = source_of(merge_splits_kernel, types, constants)
    return Configuration(f"merge_splits {dtype} d{head_dim}", "copy", source, MERGE_OPTIONS)


def _write_kv(dtype: str, head_dim: int, cache: str | None = None) -> Configuration:
    constants = {
        "NUM_KV_HEADS": _NUM_KV_HEADS,
        "HEAD_DIM": head_dim,
        "BLOCK_SIZE": 16,
        "PADDED_HEADS": _NUM_KV_HEADS,
        "PADDED_DIM": head_dim,
        "LARGEST": LARGEST if cache and cache != "i8" else 0.0,
        "SCALED": cache == "i8",
    }
    types = dict.fromkeys(("key", "value"), f"*{dtype}")
    types |= dict.fromkeys(("key_cache", "value_cache"), f"*{cache or dtype}")
    types |= {"slot_mapping": "*i64", "key_stride": "i32", "value_stride": "i32"}
    source = source_of(write_kv_kernel, types, constants)
    name = f"write_kv {dtype} d{head_dim}" + (f" cache {cache}" if cache else "")
    return Configuration(name, "copy", source, {"enable_fp_fusion": True})


def source_of(kernel: triton.JITFunction[Any], types: dict[str, str], constants: Mapping[str, object]) -> ASTSource:
    """Every pointer and stride divisible by 16, as torch's allocations and the models' head sizes make them.

    Not what the kernel does not specialise for, such as a number of rows.

    Arguments that are neither typed nor constant here (options that are off) are passed as `None`.
    """
    names = list(kernel.arg_names)
    types = {name: kind for name, kind in types.items() if name in names}
    signature = {name: types.get(name, "constexpr") for name in names}
    values = {name: constants.get(name) for name in names if name not in types}
    counts = {"fp32", *kernel.do_not_specialize}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if name in types and not {name, types[name]} & counts
    }
    return ASTSource(kernel, signature, {(names.index(name),): value for name, value in values.items()}, aligned)

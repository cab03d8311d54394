"""Tile sizes and launch options per architecture: one table, looked up when a step is prepared, never tuned meanwhile.

The figures are static (registers, shared memory, bytes in flight: `python -m octavo_kernels.aot`); nothing was timed on
a GPU yet. Shapes are given in bytes, so that they hold for every head size and dtype.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch
import triton
from triton import knobs
from triton.runtime import driver

from octavo_kernels.triton.boxes import BOX_ALIGNMENT, padded_dim

if TYPE_CHECKING:
    from collections.abc import Mapping

_LEAST: Final = 16  # rows or columns that tensor cores take
_MOST_ROWS: Final = 128
MOST_COLUMNS: Final = 64
_NARROW: Final = 128  # bytes of one head
_WIDE: Final = 256
_INTERPRETED: Final = 90  # the architecture whose tiles the interpreter works on
_INTERPRETED_MULTIPROCESSORS: Final = 2

MERGED_ROWS: Final = 16  # of a tile, by one program of the merge
MERGE_OPTIONS: Final = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}


class _Shape(NamedTuple):
    query_bytes: int  # a tile of queries; 0: one query's heads
    kv_bytes: int  # a tile of keys and values together
    num_warps: int
    num_stages: int
    programs: int  # per multiprocessor
    boxes: bool = False  # keys and values through tensor descriptors, where a tile is a box; else through pointers
    registers: int | None = None  # at most, per thread


class Launch(NamedTuple):
    """How the attention kernel is launched."""

    rows: int  # BLOCK_M: (query, head) pairs that a program works on
    columns: int  # BLOCK_N: positions at a time
    programs: int  # per multiprocessor
    is_decode: bool
    boxes: bool  # keys and values are loaded through tensor descriptors (boxes.py)
    options: Mapping[str, Any]


# Decode: two tiles in flight beside the one that is computed, on as many blocks as registers allow. On sm_80 and sm_89
# tiles of 32 KiB make the page arithmetic spill; 16 KiB keep as many bytes in flight with more blocks. As many programs
# as run at once, which the gate holds against what was compiled. Registers are named: left alone, the compiler at times
# chooses fewer than that many programs leave it, and spills a few.
# Prefill: as many queries as share one reading of keys and values without a spill. sm_89 has 99 KiB for a block. Two
# programs per multiprocessor, though most sizes run one at a time: the second begins where the first one ends. On sm_90
# two run at once with narrow heads: the compiler takes 190 registers there, and does with 128 where it is told to.
_DECODE: Final = {
    80: _Shape(0, 16 << 10, 4, 3, 4, registers=128),
    89: _Shape(0, 16 << 10, 4, 3, 2, registers=168),
    90: _Shape(0, 16 << 10, 4, 4, 4, registers=128),
    100: _Shape(0, 16 << 10, 4, 4, 4, registers=128),
}
# Heads of 256: sums take so many registers more that a block less runs at once.
_WIDE_DECODE: Final = {
    80: _Shape(0, 16 << 10, 4, 3, 3, registers=168),
    89: _DECODE[89],
    90: _Shape(0, 16 << 10, 4, 4, 3, registers=168),
    100: _Shape(0, 16 << 10, 4, 4, 3, registers=168),
}
# Heads of 80 and 96, which leave a part of their tile empty: masks take registers, and on sm_90 four spilled at 128.
_PADDED_DECODE: Final = {**_DECODE, 90: _WIDE_DECODE[90]}
_PREFILL: Final = {
    80: _Shape(32 << 10, 32 << 10, 8, 3, 2),
    89: _Shape(32 << 10, 32 << 10, 8, 3, 2),
    90: _Shape(32 << 10, 32 << 10, 8, 3, 2, boxes=True),
    100: _Shape(32 << 10, 32 << 10, 8, 3, 2, boxes=True),
}
_WIDE_PREFILL: Final = {
    80: _Shape(16 << 10, 32 << 10, 4, 3, 2),
    89: _Shape(16 << 10, 32 << 10, 4, 3, 2, registers=255),  # left alone: 168, and spills four
    90: _PREFILL[90],
    100: _PREFILL[100],
}
_NARROW_PREFILL: Final = {
    80: _PREFILL[80],
    89: _PREFILL[89],
    90: _Shape(16 << 10, 16 << 10, 8, 3, 2, boxes=True, registers=128),
    100: _PREFILL[100],
}
# Splits at fixed places take registers too; on sm_90 boxes spill then.
_SPLIT: Final = {
    80: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    89: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    90: _Shape(32 << 10, 32 << 10, 8, 3, 2),
    100: _Shape(16 << 10, 32 << 10, 8, 3, 2, boxes=True),
}
# Exact fp32 computes without tensor cores: twice the warps, or sums spill.
_EXACT_PREFILL: Final = {
    80: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    89: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    90: _Shape(32 << 10, 32 << 10, 8, 3, 2),
    100: _Shape(32 << 10, 32 << 10, 8, 3, 2),
}
# A cache of smaller numbers than products take: these are converted in registers, which leaves fewer for the tile, so
# it is smaller, and more are in flight on three blocks. sm_89 has shared memory for three tiles, or for two blocks with
# heads of 256, and spills in prefill with more queries.
_FP8_DECODE: Final = {
    80: _Shape(0, 16 << 10, 4, 4, 3, registers=168),
    89: _Shape(0, 16 << 10, 4, 4, 3, registers=168),
    90: _Shape(0, 16 << 10, 4, 5, 3, registers=168),
    100: _Shape(0, 16 << 10, 4, 5, 3, registers=168),
}
_WIDE_FP8_DECODE: Final = {**_FP8_DECODE, 89: _Shape(0, 16 << 10, 4, 4, 2, registers=168)}
_FP8_PREFILL: Final = {
    80: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    89: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    90: _PREFILL[90],
    100: _PREFILL[100],
}
# Scales take registers too. With heads of 256 they spill on sm_90 at 168: two blocks there, with as much in flight.
_INT8_DECODE: Final = {
    80: _Shape(0, 16 << 10, 4, 5, 3, registers=168),
    89: _Shape(0, 16 << 10, 4, 4, 3, registers=168),
    90: _Shape(0, 16 << 10, 4, 5, 3, registers=168),
    100: _Shape(0, 16 << 10, 4, 5, 3, registers=168),
}
_WIDE_INT8_DECODE: Final = {
    80: _INT8_DECODE[80],
    89: _Shape(0, 16 << 10, 4, 4, 2, registers=168),
    90: _Shape(0, 16 << 10, 4, 7, 2, registers=255),
    100: _INT8_DECODE[100],
}
_INT8_PREFILL: Final = {
    80: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    89: _Shape(16 << 10, 32 << 10, 8, 3, 2),
    90: _Shape(32 << 10, 32 << 10, 8, 3, 2),
    100: _Shape(32 << 10, 32 << 10, 8, 3, 2),
}
_MOST_FP8_COLUMNS: Final = 32
_SMALLEST: Final = 89  # whose tiles fit everywhere
_CLASSES: Final = {80: 80, 86: 89, 87: 80, 89: 89, 90: 90, 100: 100, 103: 100, 110: 89, 120: 89, 121: 89}


def choose_launch(
    architecture: int,
    max_query_len: int,
    group: int,
    head_dim: int,
    element_size: int,
    *,
    cache_size: int,
    scaled: bool = False,
    block_size: int,
    for_any: bool = False,
    boxes: bool = True,
) -> Launch:
    """The launch for a step whose longest query is `max_query_len`, with `group` query heads per KV head.

    `element_size` is of what products are made of and `cache_size` of what the cache holds, in bytes; `scaled` where
    its rows have scales.
    Blocks of `block_size` tokens decide where boxes can be had; without `boxes` all is loaded through pointers.
    `for_any` gives the tiles of a prefill whatever the queries, so that they do not depend on who is in the step.
    `architecture` is such as 90. One that is not in the table gets the tiles of the smallest, which fit everywhere.
    """
    row_bytes = padded_dim(head_dim) * element_size
    converted = cache_size < element_size
    least_rows = max(_LEAST, triton.next_power_of_2(group))
    is_decode = not for_any and max_query_len * group <= least_rows  # also what verifies a few drafted tokens
    if is_decode:
        is_padded = padded_dim(head_dim) > head_dim
        table = _decode_table(row_bytes, is_padded=is_padded, converted=converted, scaled=scaled)
    elif scaled and row_bytes <= _WIDE:
        table = _INT8_PREFILL
    else:
        table = _prefill_table(row_bytes, is_exact=element_size == 4, converted=converted, for_any=for_any)
    shape = table[_CLASSES.get(architecture, _SMALLEST)]
    most_columns = _MOST_FP8_COLUMNS if converted and is_decode else MOST_COLUMNS
    columns = _fit(shape.kv_bytes, 2 * row_bytes, most_columns)
    return Launch(
        rows=max(least_rows, _fit(shape.query_bytes, row_bytes, _MOST_ROWS)),
        columns=columns,
        programs=shape.programs,
        is_decode=is_decode,
        boxes=boxes and shape.boxes and not scaled and _fits_boxes(columns, block_size, head_dim * cache_size),
        # Fused multiply-add is asked for by name: Triton 3.10 changes the default, and results would move with it.
        options={
            "num_warps": shape.num_warps,
            "num_stages": shape.num_stages,
            "maxnreg": shape.registers,
            "enable_fp_fusion": True,
        },
    )


def _fits_boxes(columns: int, block_size: int, row_bytes: int) -> bool:
    return columns <= block_size and row_bytes % BOX_ALIGNMENT == 0


def _decode_table(row_bytes: int, *, is_padded: bool, converted: bool, scaled: bool) -> dict[int, _Shape]:
    is_wide = row_bytes > _WIDE
    if scaled:
        return _WIDE_INT8_DECODE if is_wide else _INT8_DECODE
    if converted:
        return _WIDE_FP8_DECODE if is_wide else _FP8_DECODE
    if is_wide:
        return _WIDE_DECODE
    return _PADDED_DECODE if is_padded else _DECODE


def _prefill_table(row_bytes: int, *, is_exact: bool, converted: bool, for_any: bool) -> dict[int, _Shape]:
    if is_exact:
        return _EXACT_PREFILL
    if row_bytes <= _NARROW:
        return _NARROW_PREFILL
    if row_bytes > _WIDE:
        return _WIDE_PREFILL
    if converted:
        return _FP8_PREFILL
    return _SPLIT if for_any else _PREFILL


def architecture_of(device: torch.device) -> int:
    """Such as 90 for compute capability 9.0; in the interpreter, whose tensors are on the CPU, a fixed one.

    Without an interpreter and without a GPU launches are rehearsed (shipping/rehearsal.py), for one that is told.
    """
    if device.type == "meta" and not knobs.runtime.interpret:
        return int(driver.active.get_current_target().arch)
    if device.type != "cuda":
        return _INTERPRETED
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


@cache
def multiprocessors_of(device: torch.device) -> int:
    """How many the device has; in the interpreter a small number, as programs run one after the other there."""
    if device.type != "cuda":
        return _INTERPRETED_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _fit(tile_bytes: int, row_bytes: int, most: int) -> int:
    return min(max(tile_bytes // row_bytes, _LEAST), most)

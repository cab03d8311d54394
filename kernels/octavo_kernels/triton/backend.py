"""The Triton kernels behind `KernelBackend`: checks, tile sizes and launches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import torch
import triton
from triton import knobs

from octavo_kernels.cache_dtype import EIGHT_BITS, FP8, FP8_ARCHITECTURE, INT8, LARGEST, head_dim_of
from octavo_kernels.check import (
    check_attend,
    check_contiguous,
    check_power_of_two,
    check_write_kv,
    check_write_rotated,
)
from octavo_kernels.triton.boxes import boxes_of, padded_dim
from octavo_kernels.triton.launches import (
    MERGE_OPTIONS,
    MERGED_ROWS,
    MOST_COLUMNS,
    architecture_of,
    choose_launch,
    multiprocessors_of,
)
from octavo_kernels.triton.limits import check_limits
from octavo_kernels.triton.merge import merge_kernel
from octavo_kernels.triton.neighbours import TritonNeighbours
from octavo_kernels.triton.paged_attention import paged_attention_kernel
from octavo_kernels.triton.plan import Plan, Splits, make_parts
from octavo_kernels.triton.sampling import TritonSampling
from octavo_kernels.triton.splits import merge_splits_kernel
from octavo_kernels.triton.tiles import make_tiles
from octavo_kernels.triton.write_kv import write_kv_kernel
from octavo_kernels.triton.write_rotated import rotated_constants, rotated_warps, write_rotated_kernel

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor
    from triton.tools.tensor_descriptor import TensorDescriptor

    from octavo_kernels.interface import PagedBatch
    from octavo_kernels.triton.launches import Launch
    from octavo_kernels.triton.work import WorkList

_HALF: Final = 2  # bytes of a number that is computed with where the cache holds smaller ones


class TritonBackend(TritonNeighbours, TritonSampling):
    """Implements `KernelBackend` on NVIDIA GPUs, in fp32, fp16 and bf16; fp32 is exact, never tf32.

    Caches may be e4m3, or int8 with scales.
    """

    name = "triton"

    def __init__(self, split_tokens: int | None = None, *, boxes: bool = True) -> None:
        """`split_tokens` is for the batch-invariant mode: contexts are cut at multiples of so many positions, whatever
        else is in the step (splits.py). None: where it suits the step.

        `boxes`: whether keys and values are loaded through tensor descriptors where the table of launches has it so
        (launches.py); False: through pointers everywhere.
        """
        if split_tokens is not None and (split_tokens <= 0 or split_tokens % MOST_COLUMNS):
            raise ValueError(f"split_tokens is {split_tokens}; expected a multiple of {MOST_COLUMNS}")
        self._split_tokens = split_tokens
        self._boxes = boxes

    def prepare(self, batch: PagedBatch, key_cache: Tensor, num_heads: int) -> PagedBatch:
        """The plan is made on the device from shapes alone: the host waits for nothing and reads no length."""
        group = num_heads // key_cache.shape[1]
        launch = _launch(batch, key_cache, group, for_any=self._split_tokens is not None, boxes=self._boxes)
        programs = launch.programs * multiprocessors_of(key_cache.device)
        splits, slots = None, (2 * programs, launch.rows)
        if self._split_tokens is not None:
            count = triton.cdiv(batch.block_table.shape[1] * key_cache.shape[2], self._split_tokens)
            splits = Splits(self._split_tokens // launch.columns, count)
            slots = (batch.slot_mapping.shape[0] * num_heads, count if count > 1 else 0)
        tiles = make_tiles(batch, launch.rows // group)
        return replace(batch, plan=Plan(launch, programs, tiles, make_parts(slots, key_cache), splits))

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        check_write_kv(key, value, key_cache, value_cache, slot_mapping)
        check_limits("key", key, key_cache)
        largest = LARGEST if key_cache.dtype == FP8 else 0.0
        key_cache, value_cache = _caches(key_cache, value_cache)
        num_tokens, num_kv_heads, head_dim = key.shape
        key, value = _token_rows(key), _token_rows(value)
        write_kv_kernel[(num_tokens,)](
            key,
            value,
            key_cache,
            value_cache,
            slot_mapping,
            key.stride(0),
            value.stride(0),
            NUM_KV_HEADS=num_kv_heads,
            HEAD_DIM=head_dim,
            BLOCK_SIZE=key_cache.shape[2],
            PADDED_HEADS=triton.next_power_of_2(num_kv_heads),
            PADDED_DIM=triton.next_power_of_2(head_dim),
            LARGEST=largest,
            SCALED=key_cache.dtype == INT8,
            enable_fp_fusion=True,
        )

    def write_rotated(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        *,
        slot_mapping: Tensor,
        norms: tuple[Tensor, Tensor] | None,
        eps: float,
        rotation: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        check_write_kv(key, value, key_cache, value_cache, slot_mapping)
        check_write_rotated(query, key_cache, norms, rotation)
        check_limits("query", query, key_cache)
        largest = LARGEST if key_cache.dtype == FP8 else 0.0
        key_cache, value_cache = _caches(key_cache, value_cache)
        num_tokens, num_heads, head_dim = query.shape
        num_kv_heads = key.shape[1]
        query, key, value = (_token_rows(x) for x in (query, key, value))
        cos, sin = (None, None) if rotation is None else (angles.contiguous() for angles in rotation)
        constants = rotated_constants(
            num_kv_heads, num_heads // num_kv_heads, head_dim, 0 if cos is None else cos.shape[2]
        )
        out = torch.empty(query.shape, dtype=query.dtype, device=query.device)
        write_rotated_kernel[num_tokens, num_kv_heads](
            query,
            key,
            value,
            key_cache,
            value_cache,
            slot_mapping,
            *(norms or (None, None)),
            cos,
            sin,
            out,
            query.stride(0),
            key.stride(0),
            value.stride(0),
            eps,
            BLOCK_SIZE=key_cache.shape[2],
            NORM=norms is not None,
            LARGEST=largest,
            SCALED=key_cache.dtype == INT8,
            num_warps=rotated_warps(constants),
            enable_fp_fusion=True,
            **constants,
        )
        return out

    def attend(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: PagedBatch,
        *,
        scale: float,
        out: Tensor,
        window: int | None = None,
        soft_cap: float | None = None,
        sinks: Tensor | None = None,
        alibi_slopes: Tensor | None = None,
    ) -> None:
        check_attend(query, key_cache, value_cache, batch, out, sinks=sinks, alibi_slopes=alibi_slopes)
        check_limits("query", query, key_cache)
        if batch.plan is None:
            batch = self.prepare(batch, key_cache, query.shape[1])
        is_fp8 = key_cache.dtype == FP8
        key_cache, value_cache = _caches(key_cache, value_cache)
        plan = cast("Plan", batch.plan)
        work = plan.work(batch, key_cache.shape[1], window or 0)
        _, num_heads, head_dim = query.shape
        _, num_kv_heads, block_size, _ = key_cache.shape
        query = _token_rows(query)
        tile = {
            "GROUP": num_heads // num_kv_heads,
            "HEAD_DIM": head_dim,
            "PADDED_DIM": padded_dim(head_dim),
            "BLOCK_Q": plan.tiles.block_q,
            "BLOCK_M": plan.launch.rows,
        }
        paged_attention_kernel[(plan.programs,)](
            query,
            *(_boxes(key_cache, value_cache, plan.launch) if plan.launch.boxes else (key_cache, value_cache)),
            out,
            *plan.parts,
            work.units,
            work.program_unit,
            work.program_tile,
            batch.query_start_loc,
            batch.seq_lens,
            batch.block_table,
            sinks,
            alibi_slopes,
            plan.splits.most if plan.splits else None,
            scale * math.log2(math.e),
            query.stride(0),
            out.stride(0),
            batch.block_table.stride(0),
            NUM_KV_HEADS=num_kv_heads,
            BLOCK_SIZE=block_size,
            BLOCK_N=plan.launch.columns,
            INTERP=bool(knobs.runtime.interpret),
            WINDOW=window or 0,
            SOFT_CAP=soft_cap or 0.0,
            SPLIT=plan.splits.tiles if plan.splits else 0,
            SCALED=key_cache.dtype == INT8,
            HALVES=is_fp8 and query.dtype == torch.bfloat16 and plan.launch.is_decode,
            BOXES=plan.launch.boxes,
            **tile,
            **plan.launch.options,
        )
        if plan.splits is None:
            _merge_parts(plan, work, batch, sinks, out=out, tile=tile)
        elif plan.splits.most > 1:
            _merge_splits(plan, batch, sinks, out=out, tile={**tile, "NUM_KV_HEADS": num_kv_heads}, window=window or 0)


def _merge_parts(
    plan: Plan, work: WorkList, batch: PagedBatch, sinks: Tensor | None, *, out: Tensor, tile: Mapping[str, int]
) -> None:
    merge_kernel[(plan.programs - 1, plan.launch.rows // MERGED_ROWS)](
        out,
        *plan.parts,
        work.units,
        work.program_unit,
        work.program_tile,
        work.program_end,
        batch.query_start_loc,
        sinks,
        out.stride(0),
        ROWS=MERGED_ROWS,
        **tile,
        **MERGE_OPTIONS,
    )


def _merge_splits(
    plan: Plan, batch: PagedBatch, sinks: Tensor | None, *, out: Tensor, tile: Mapping[str, int], window: int
) -> None:
    assert plan.splits is not None
    merge_splits_kernel[plan.tiles.sequence.shape[0], tile["NUM_KV_HEADS"], plan.launch.rows // MERGED_ROWS](
        out,
        *plan.parts,
        plan.tiles.sequence,
        plan.tiles.first_query,
        batch.query_start_loc,
        batch.seq_lens,
        sinks,
        out.stride(0),
        plan.splits.most,
        BLOCK_N=plan.launch.columns,
        SPLIT=plan.splits.tiles,
        WINDOW=window,
        ROWS=MERGED_ROWS,
        **tile,
        **MERGE_OPTIONS,
    )


def _launch(batch: PagedBatch, key_cache: Tensor, group: int, *, for_any: bool, boxes: bool) -> Launch:
    architecture = architecture_of(key_cache.device)
    size = key_cache.element_size()
    element_size = _HALF if key_cache.dtype in EIGHT_BITS else size
    return choose_launch(
        architecture,
        batch.max_query_len,
        group,
        head_dim_of(key_cache),
        element_size,
        cache_size=size,
        scaled=key_cache.dtype == INT8,
        block_size=key_cache.shape[2],
        for_any=for_any,
        boxes=boxes,
    )


def _caches(key_cache: Tensor, value_cache: Tensor) -> tuple[Tensor, Tensor]:
    """As kernels take them: e4m3 as bytes, where the GPU has no such numbers (e4m3.py)."""
    check_contiguous("key_cache", key_cache)
    check_contiguous("value_cache", value_cache)
    check_power_of_two("block_size", key_cache.shape[2])
    if key_cache.dtype == FP8 and architecture_of(key_cache.device) < FP8_ARCHITECTURE:
        return key_cache.view(torch.uint8), value_cache.view(torch.uint8)
    return key_cache, value_cache


def _boxes(key_cache: Tensor, value_cache: Tensor, launch: Launch) -> tuple[TensorDescriptor, TensorDescriptor]:
    return boxes_of("key_cache", key_cache, launch.columns), boxes_of("value_cache", value_cache, launch.columns)


def _token_rows(x: Tensor) -> Tensor:
    """`[T, heads, head_dim]` with every token's heads in one piece; a token may be any distance from the next."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()

"""The Triton kernels behind `KernelBackend`: checks, tile sizes and launches."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Final, cast

import triton
from triton import knobs

from octavo_kernels.check import check_attend, check_contiguous, check_power_of_two, check_write_kv
from octavo_kernels.triton.paged_attention import paged_attention_kernel
from octavo_kernels.triton.tiles import QueryTiles, make_tiles
from octavo_kernels.triton.write_kv import write_kv_kernel

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import PagedBatch

_LEAST: Final = 16  # rows or columns that tensor cores take
_MOST: Final = 64
_QUERY_TILE_BYTES: Final = 16 << 10
_KV_TILE_BYTES: Final = 32 << 10  # keys and values together

# Fused multiply-add is asked for by name: Triton 3.10 changes the default, and results would move with it.
LAUNCH_OPTIONS: Final = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": True}


class TritonBackend:
    """Implements `KernelBackend` on NVIDIA GPUs, in fp32, fp16 and bf16; fp32 is exact, never tf32."""

    name = "triton"

    def prepare(self, batch: PagedBatch, key_cache: Tensor, num_heads: int) -> PagedBatch:
        group = num_heads // key_cache.shape[1]
        rows, _ = tile_shape(batch.max_query_len, group, key_cache.shape[3], key_cache.element_size())
        return replace(batch, plan=make_tiles(batch, rows // group))

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        check_write_kv(key, value, key_cache, value_cache, slot_mapping)
        _check_caches(key_cache, value_cache)
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
            enable_fp_fusion=True,
        )

    def attend(
        self,
        query: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        batch: PagedBatch,
        *,
        scale: float,
        out: Tensor,
    ) -> None:
        check_attend(query, key_cache, value_cache, batch, out)
        _check_caches(key_cache, value_cache)
        if batch.plan is None:
            batch = self.prepare(batch, key_cache, query.shape[1])
        tiles = cast("QueryTiles", batch.plan)
        _, num_heads, head_dim = query.shape
        _, num_kv_heads, block_size, _ = key_cache.shape
        group = num_heads // num_kv_heads
        query = _token_rows(query)
        rows, columns = tile_shape(batch.max_query_len, group, head_dim, key_cache.element_size())
        paged_attention_kernel[(tiles.sequence.shape[0], num_kv_heads)](
            query,
            key_cache,
            value_cache,
            out,
            tiles.sequence,
            tiles.first_query,
            batch.query_start_loc,
            batch.seq_lens,
            batch.block_table,
            scale * math.log2(math.e),
            query.stride(0),
            out.stride(0),
            batch.block_table.stride(0),
            NUM_KV_HEADS=num_kv_heads,
            GROUP=group,
            HEAD_DIM=head_dim,
            PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
            BLOCK_SIZE=block_size,
            BLOCK_Q=tiles.block_q,
            BLOCK_M=rows,
            BLOCK_N=columns,
            INTERP=bool(knobs.runtime.interpret),
            **LAUNCH_OPTIONS,
        )


def tile_shape(max_query_len: int, group: int, head_dim: int, element_size: int) -> tuple[int, int]:
    """BLOCK_M and BLOCK_N: rows (query, head) and positions that a program works on at a time.

    A decode has one query's heads in its rows. Otherwise both are as large as an L40S has shared memory for, the
    smallest of the architectures served: a tile of queries and two of keys and values in 99 KiB.
    """
    row_bytes = triton.next_power_of_2(head_dim) * element_size
    least_rows = max(_LEAST, triton.next_power_of_2(group))
    rows = least_rows if max_query_len == 1 else max(least_rows, _fit(_QUERY_TILE_BYTES, row_bytes))
    return rows, _fit(_KV_TILE_BYTES, 2 * row_bytes)


def _fit(tile_bytes: int, row_bytes: int) -> int:
    return min(max(tile_bytes // row_bytes, _LEAST), _MOST)


def _check_caches(key_cache: Tensor, value_cache: Tensor) -> None:
    check_contiguous("key_cache", key_cache)
    check_contiguous("value_cache", value_cache)
    check_power_of_two("block_size", key_cache.shape[2])


def _token_rows(x: Tensor) -> Tensor:
    """`[T, heads, head_dim]` with every token's heads in one piece; a token may be any distance from the next."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()

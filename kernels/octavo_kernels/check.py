"""Input checks shared by the backends. They look at shapes, dtypes and devices alone, never at values, so they cost no
synchronisation with a GPU. A violation is the caller's bug and raises `ValueError` naming what was given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import PagedBatch


def check_write_kv(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> None:
    _check_caches(key_cache, value_cache)
    _, num_kv_heads, _, head_dim = key_cache.shape
    expected = (slot_mapping.shape[0], num_kv_heads, head_dim)
    _expect(key.shape == expected, f"key is {_shape(key)}; expected {expected}")
    _expect(value.shape == expected, f"value is {_shape(value)}; expected {expected}")
    _expect(slot_mapping.dtype == torch.int64, f"slot_mapping is {slot_mapping.dtype}; expected int64")


def check_attend(query: Tensor, key_cache: Tensor, value_cache: Tensor, batch: PagedBatch, out: Tensor) -> None:
    _check_caches(key_cache, value_cache)
    _, num_kv_heads, _, head_dim = key_cache.shape
    _expect(query.dim() == 3, f"query is {_shape(query)}; expected [T, num_heads, head_dim]")
    _, num_heads, query_dim = query.shape
    _expect(query_dim == head_dim, f"query has head_dim {query_dim}, the cache {head_dim}")
    _expect(num_heads % num_kv_heads == 0, f"{num_heads} query heads are no multiple of {num_kv_heads} KV heads")
    _expect(out.shape == query.shape, f"out is {_shape(out)}; expected {_shape(query)}")
    _expect(out.is_contiguous(), "out must be contiguous")
    _check_batch(batch)


def check_contiguous(name: str, tensor: Tensor) -> None:
    _expect(tensor.is_contiguous(), f"{name} must be contiguous; its strides are {tensor.stride()}")


def check_power_of_two(name: str, value: int) -> None:
    _expect(value > 0 and value & (value - 1) == 0, f"{name} is {value}; expected a power of two")


def _check_caches(key_cache: Tensor, value_cache: Tensor) -> None:
    layout = "[num_blocks, num_kv_heads, block_size, head_dim]"
    _expect(key_cache.dim() == 4, f"key_cache is {_shape(key_cache)}; expected {layout}")
    _expect(
        value_cache.shape == key_cache.shape, f"value_cache is {_shape(value_cache)}, key_cache {_shape(key_cache)}"
    )


def _check_batch(batch: PagedBatch) -> None:
    sequences = batch.seq_lens.shape[0]
    starts = batch.query_start_loc.shape
    _expect(starts == (sequences + 1,), f"query_start_loc is {tuple(starts)}; expected {(sequences + 1,)}")
    table = batch.block_table
    _expect(
        table.dim() == 2 and table.shape[0] == sequences, f"block_table is {_shape(table)}; expected [{sequences}, B]"
    )
    for name in ("query_start_loc", "seq_lens", "block_table"):
        dtype = getattr(batch, name).dtype
        _expect(dtype == torch.int32, f"{name} is {dtype}; expected int32")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)

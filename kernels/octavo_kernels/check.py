"""Input checks shared by the backends. They look at shapes, dtypes and devices alone, never at values, so they cost no
synchronisation with a GPU; and a message is made only when it is needed, since they run in every layer. A violation is
the caller's bug and raises `ValueError` naming what was given.

With OCTAVO_CHECK_PAGES=1 in the environment, for finding such bugs, they look at values too: block numbers, slots and
lengths that point outside the cache are refused before anything reads or writes there. That waits for the GPU in every
layer, and cannot be part of a CUDA graph.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.cache_dtype import INT8, head_dim_of
from octavo_kernels.interface import ACTIVATIONS

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from torch import Tensor

    from octavo_kernels.draws import Changes, Draws
    from octavo_kernels.interface import PagedBatch

CHECK_PAGES: Final = os.environ.get("OCTAVO_CHECK_PAGES") == "1"


def check_write_kv(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> None:
    _check_caches(key_cache, value_cache)
    num_kv_heads, head_dim = key_cache.shape[1], head_dim_of(key_cache)
    expected = (slot_mapping.shape[0], num_kv_heads, head_dim)
    if key.shape != expected:
        raise ValueError(f"key is {_shape(key)}; expected {expected}")
    if value.shape != expected:
        raise ValueError(f"value is {_shape(value)}; expected {expected}")
    if slot_mapping.dtype != torch.int64:
        raise ValueError(f"slot_mapping is {slot_mapping.dtype}; expected int64")
    if CHECK_PAGES:
        slots = key_cache.shape[0] * key_cache.shape[2]
        _refuse_first((slot_mapping < -1) | (slot_mapping >= slots), "slot_mapping", slot_mapping, f"{slots} slots")


def check_attend(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    batch: PagedBatch,
    out: Tensor,
    *,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
) -> None:
    _check_caches(key_cache, value_cache)
    num_kv_heads, head_dim = key_cache.shape[1], head_dim_of(key_cache)
    if query.dim() != 3:
        raise ValueError(f"query is {_shape(query)}; expected [T, num_heads, head_dim]")
    _, num_heads, query_dim = query.shape
    if query_dim != head_dim:
        raise ValueError(f"query has head_dim {query_dim}, the cache {head_dim}")
    if num_heads % num_kv_heads:
        raise ValueError(f"{num_heads} query heads are no multiple of {num_kv_heads} KV heads")
    if out.shape != query.shape:
        raise ValueError(f"out is {_shape(out)}; expected {_shape(query)}")
    check_contiguous("out", out)
    for name, per_head in (("sinks", sinks), ("alibi_slopes", alibi_slopes)):
        if per_head is not None and (per_head.shape != (num_heads,) or not per_head.is_contiguous()):
            raise ValueError(f"{name} is {_shape(per_head)}; expected {(num_heads,)}, contiguous")
    _check_batch(batch)
    if CHECK_PAGES:
        _check_pages(batch, key_cache)


def check_write_rotated(
    query: Tensor, key_cache: Tensor, norms: tuple[Tensor, Tensor] | None, rotation: tuple[Tensor, Tensor] | None
) -> None:
    """What `check_write_kv` does not see."""
    num_kv_heads, head_dim = key_cache.shape[1], head_dim_of(key_cache)
    if query.dim() != 3 or query.shape[2] != head_dim or query.shape[1] % num_kv_heads:
        raise ValueError(f"query is {_shape(query)}; expected [T, a multiple of {num_kv_heads}, {head_dim}]")
    for name, weight in zip(("query", "key"), norms or (), strict=False):
        if weight.shape != (head_dim,):
            raise ValueError(f"the {name} norm's weight is {_shape(weight)}; expected {(head_dim,)}")
    for name, angles in zip(("cos", "sin"), rotation or (), strict=False):
        if angles.dim() != 3 or angles.shape[:2] != (query.shape[0], 1) or 2 * angles.shape[2] > head_dim:
            raise ValueError(f"{name} is {_shape(angles)}; expected [{query.shape[0]}, 1, at most {head_dim // 2}]")


def check_rms_norm(x: Tensor, weight: Tensor, residual: Tensor | None = None) -> None:
    if x.dim() not in {2, 3}:
        raise ValueError(f"x is {_shape(x)}; expected [T, size] or [T, heads, size]")
    if weight.shape != x.shape[-1:]:
        raise ValueError(f"weight is {_shape(weight)}; expected {_shape(x)[-1:]}")
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(f"residual is {_shape(residual)} in {residual.dtype}; expected {_shape(x)} in {x.dtype}")


def check_gated(gate_up: Tensor, activation: str) -> None:
    if gate_up.dim() != 2 or gate_up.shape[1] % 2:
        raise ValueError(f"gate_up is {_shape(gate_up)}; expected [T, 2 I]")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation {activation!r} is unknown; known are {', '.join(ACTIVATIONS)}")


def check_adjust(logits: Tensor, changes: Changes) -> None:
    _check_logits(logits)
    check_contiguous("logits", logits)
    _check_per_row(changes._asdict(), changes.places.shape[0], integers={"places"})


def check_draw(logits: Tensor, draws: Draws) -> None:
    _check_logits(logits)
    if logits.stride(1) != 1:
        raise ValueError(f"logits must have rows in one piece; their strides are {logits.stride()}")
    _check_per_row(draws._asdict(), logits.shape[0], integers={"top_k", "key"})


def check_contiguous(name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise ValueError(f"{name} must be contiguous; its strides are {tensor.stride()}")


def check_power_of_two(name: str, value: int) -> None:
    if value <= 0 or value & (value - 1):
        raise ValueError(f"{name} is {value}; expected a power of two")


def _check_logits(logits: Tensor) -> None:
    if logits.dim() != 2 or logits.dtype != torch.float32:
        raise ValueError(f"logits are {_shape(logits)} in {logits.dtype}; expected [R, V] in torch.float32")


def _check_per_row(columns: Mapping[str, Tensor], rows: int, integers: Collection[str]) -> None:
    for name, column in columns.items():
        dtype = torch.int64 if name in integers else torch.float32
        if column.shape != (rows,) or column.dtype != dtype or not column.is_contiguous():
            raise ValueError(f"{name} is {_shape(column)} in {column.dtype}; expected {(rows,)} in {dtype}, contiguous")


def _check_caches(key_cache: Tensor, value_cache: Tensor) -> None:
    if key_cache.dim() != 4:
        raise ValueError(f"key_cache is {_shape(key_cache)}; expected [num_blocks, num_kv_heads, block_size, head_dim]")
    if value_cache.shape != key_cache.shape:
        raise ValueError(f"value_cache is {_shape(value_cache)}, key_cache {_shape(key_cache)}")
    if INT8 in {key_cache.dtype, value_cache.dtype}:
        _check_int8(key_cache, value_cache)


def _check_int8(key_cache: Tensor, value_cache: Tensor) -> None:
    if value_cache.dtype != key_cache.dtype:
        raise ValueError(f"value_cache is {value_cache.dtype}, key_cache {key_cache.dtype}")
    check_contiguous("key_cache", key_cache)
    check_contiguous("value_cache", value_cache)
    block_size, head_dim = key_cache.shape[2], head_dim_of(key_cache)
    if head_dim <= 0 or block_size * head_dim % 2:
        raise ValueError(
            f"key_cache is {_shape(key_cache)} in int8; expected [num_blocks, num_kv_heads, block_size, head_dim + 2], "
            "with an even number of numbers in a block"
        )


def _check_batch(batch: PagedBatch) -> None:
    sequences = batch.seq_lens.shape[0]
    starts, table = batch.query_start_loc, batch.block_table
    if starts.shape != (sequences + 1,):
        raise ValueError(f"query_start_loc is {_shape(starts)}; expected {(sequences + 1,)}")
    if table.dim() != 2 or table.shape[0] != sequences:
        raise ValueError(f"block_table is {_shape(table)}; expected [{sequences}, B]")
    for name in ("query_start_loc", "seq_lens", "block_table"):
        dtype = getattr(batch, name).dtype
        if dtype != torch.int32:
            raise ValueError(f"{name} is {dtype}; expected int32")


def _check_pages(batch: PagedBatch, key_cache: Tensor) -> None:
    """Lengths within the block table, and the entries that they reach within the cache."""
    num_blocks, _, block_size, _ = key_cache.shape
    table, lengths = batch.block_table, batch.seq_lens
    num_queries = batch.query_start_loc.diff()
    most = table.shape[1] * block_size
    _refuse_first((lengths > most) | (lengths < 0), "seq_lens", lengths, f"{most} positions in the block table")
    _refuse_first((num_queries < 0) | (num_queries > lengths), "query length", num_queries, "not as many in seq_lens")
    read = torch.arange(table.shape[1], device=table.device) * block_size < lengths[:, None]
    _refuse_first(read & ((table < 0) | (table >= num_blocks)), "block_table", table, f"{num_blocks} blocks")


def _refuse_first(wrong: Tensor, name: str, values: Tensor, limit: str) -> None:
    if bool(wrong.any()):
        where = wrong.nonzero()[0].tolist()
        raise ValueError(f"{name}{where} is {int(values[tuple(where)])}; there are {limit}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)

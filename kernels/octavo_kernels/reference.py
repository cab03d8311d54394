"""Paged attention in plain torch: slow, readable, and the specification that every other backend is held to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from octavo_kernels import int8
from octavo_kernels.cache_dtype import FP8, INT8, to_cache
from octavo_kernels.check import check_attend, check_write_kv
from octavo_kernels.plain import PlainVerbs

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import PagedBatch


class ReferenceBackend(PlainVerbs):
    """Implements `KernelBackend` on any device and in any dtype; sums in fp32 at least."""

    name = "reference"

    def prepare(self, batch: PagedBatch, key_cache: Tensor, num_heads: int) -> PagedBatch:
        del key_cache, num_heads
        return batch

    def write_kv(
        self, key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor
    ) -> None:
        check_write_kv(key, value, key_cache, value_cache, slot_mapping)
        scatter(key, value, key_cache, value_cache, slot_mapping)

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
        starts = batch.query_start_loc.tolist()
        for sequence, seq_len in enumerate(batch.seq_lens.tolist()):
            rows = slice(starts[sequence], starts[sequence + 1])
            key = _context(key_cache, batch.block_table[sequence], seq_len)
            value = _context(value_cache, batch.block_table[sequence], seq_len)
            out[rows] = _attend_one(
                query[rows],
                key,
                value,
                scale=scale,
                window=window,
                soft_cap=soft_cap,
                sinks=sinks,
                alibi_slopes=alibi_slopes,
            )


def scatter(key: Tensor, value: Tensor, key_cache: Tensor, value_cache: Tensor, slot_mapping: Tensor) -> None:
    """What `KernelBackend.write_kv` says, unchecked."""
    stored = slot_mapping >= 0
    slots = slot_mapping[stored]
    block_size = key_cache.shape[2]
    blocks, offsets = slots // block_size, slots % block_size
    for rows, cache in ((key[stored], key_cache), (value[stored], value_cache)):
        if cache.dtype == INT8:
            numbers, scales = int8.quantised(rows)
            int8.numbers_of(cache)[blocks, :, offsets] = numbers
            int8.scales_of(cache)[blocks, :, offsets] = scales
        else:
            cache[blocks, :, offsets] = to_cache(rows, cache.dtype)


def _context(cache: Tensor, block_table: Tensor, seq_len: int) -> Tensor:
    """One sequence's keys or values out of its blocks, `[num_kv_heads, seq_len, head_dim]`."""
    held = _blocks(cache, block_table[: -(-seq_len // cache.shape[2])].long())
    rows = int8.read(held) if cache.dtype == INT8 else held
    return rows.transpose(0, 1).flatten(1, 2)[:, :seq_len]


def _blocks(cache: Tensor, numbers: Tensor) -> Tensor:
    """By bytes where they are e4m3, which torch may not index on a GPU."""
    return cache.view(torch.uint8)[numbers].view(FP8) if cache.dtype == FP8 else cache[numbers]


def _attend_one(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    sinks: Tensor | None,
    alibi_slopes: Tensor | None,
) -> Tensor:
    """softmax(Q K^T scale) V for the last Q positions of a context of L tokens.

    query `[Q, num_heads, head_dim]`, key and value `[num_kv_heads, L, head_dim]`; result like query.
    """
    num_queries, num_heads, head_dim = query.shape
    num_kv_heads, seq_len, _ = key.shape
    precise = torch.promote_types(query.dtype, torch.float32)
    grouped = query.to(precise).view(num_queries, num_kv_heads, num_heads // num_kv_heads, head_dim)
    scores = torch.einsum("qhgd,hkd->hgqk", grouped, key.to(precise)) * scale
    if soft_cap is not None:
        scores = torch.tanh(scores / soft_cap) * soft_cap
    positions = torch.arange(seq_len, device=query.device)
    own = positions[seq_len - num_queries :, None]
    if alibi_slopes is not None:
        scores = scores + alibi_slopes.to(precise).view(num_kv_heads, -1, 1, 1) * (positions - own)
    hidden = positions > own  # [Q, L]
    if window is not None:
        hidden |= positions <= own - window
    weights = softmax_with_sinks(scores.masked_fill(hidden, -torch.inf), sinks)
    return torch.einsum("hgqk,hkd->qhgd", weights, value.to(precise)).reshape(query.shape).to(query.dtype)


def softmax_with_sinks(scores: Tensor, sinks: Tensor | None) -> Tensor:
    """Weights of the positions, of scores `[…, K, G, Q, L]`; with `sinks` `[K G]` they sum to less than 1."""
    if sinks is None:
        return scores.softmax(dim=-1)
    sink = sinks.to(scores.dtype).view(*scores.shape[-4:-2], 1, 1).expand(*scores.shape[:-1], 1)
    return torch.cat((scores, sink), dim=-1).softmax(dim=-1)[..., :-1]

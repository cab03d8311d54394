"""Paged attention on a CPU without the compiled library: gather each sequence's blocks, then torch's own attention.

Sequences of one step are put into groups of the same query length and about the same context length, so that a group is
a rectangle and one long sequence does not pad all others; ░ is padding:

    context    ████████████████████████       ████████░░  ███████░░░  ██████████
               one group                      another

Which blocks to gather, what to mask and where is the same for every layer, and is computed once per step (`prepare`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, cast

import torch
import torch.nn.functional as F  # noqa: N812  torch's own convention

from octavo_kernels import int8
from octavo_kernels.cache_dtype import EIGHT_BITS, INT8, head_dim_of
from octavo_kernels.check import check_attend, check_write_kv
from octavo_kernels.plain import PlainVerbs
from octavo_kernels.reference import scatter, softmax_with_sinks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from octavo_kernels.interface import PagedBatch

_LEAST_FILL: Final = 0.75  # a context shorter than this part of its group's longest, in blocks, begins a new group


@dataclass(frozen=True, slots=True)
class _Group:
    """n sequences with Q queries each, over at most L positions (whole blocks). K KV heads of D dimensions."""

    rows: Tensor  # [n, Q] int64, where the queries are in the batch
    pages: Tensor  # [n K L / block_size] int64, rows of a cache seen as [num_blocks K, block_size D]
    outside: Tensor  # int64, rows past their sequence's length, of what is gathered seen as [n K L, D]
    own: Tensor  # [n, 1, Q, 1] int64, each query's position
    mask: Tensor  # [n, 1, Q, L] in the dtype that attention computes in, 0 where a query may look and -inf where not
    key: Tensor  # [n, K, L, D], where each layer gathers to in turn: fresh memory would cost a page fault per 4 KiB
    value: Tensor


class CPUBackend(PlainVerbs):
    """Implements `KernelBackend` on the CPU, in the floating dtypes that torch's attention takes."""

    name = "cpu"

    def prepare(self, batch: PagedBatch, key_cache: Tensor, num_heads: int) -> PagedBatch:
        del num_heads
        groups = _split(batch, key_cache.shape[2])
        return replace(batch, plan=tuple(_make_group(batch, members, key_cache) for members in groups))

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
        if batch.plan is None:
            batch = self.prepare(batch, key_cache, query.shape[1])
        for group in cast("tuple[_Group, ...]", batch.plan):
            queries = query[group.rows].transpose(1, 2).to(group.key.dtype)
            key, value = _gather(key_cache, group, group.key), _gather(value_cache, group, group.value)
            mask = _biased(group, window, alibi_slopes)
            if soft_cap is None and sinks is None:
                attended = F.scaled_dot_product_attention(
                    queries, key, value, attn_mask=mask, scale=scale, enable_gqa=True
                )
            else:
                attended = _attend_by_hand(queries, key, value, mask, scale=scale, soft_cap=soft_cap, sinks=sinks)
            out[group.rows] = attended.transpose(1, 2).to(out.dtype)


def _split(batch: PagedBatch, block_size: int) -> list[list[int]]:
    """Sequence numbers by group. Sequences without a query are left out."""
    starts = batch.query_start_loc.tolist()
    shapes = [
        (starts[sequence + 1] - starts[sequence], -(-seq_len // block_size), sequence)
        for sequence, seq_len in enumerate(batch.seq_lens.tolist())
    ]
    groups: list[list[int]] = []
    first = (0, 0)
    for num_queries, num_blocks, sequence in sorted(shapes, reverse=True):
        if num_queries == 0:
            continue
        if num_queries != first[0] or num_blocks < _LEAST_FILL * first[1]:
            groups.append([])
            first = (num_queries, num_blocks)
        groups[-1].append(sequence)
    return groups


def _make_group(batch: PagedBatch, members: Sequence[int], key_cache: Tensor) -> _Group:
    _, num_kv_heads, block_size, _ = key_cache.shape
    head_dim = head_dim_of(key_cache)
    sequences = torch.tensor(members)
    starts = batch.query_start_loc[sequences].long()
    num_queries = int(batch.query_start_loc[members[0] + 1] - starts[0])
    seq_lens = batch.seq_lens[sequences, None].long()
    num_blocks = -(-int(seq_lens.max()) // block_size)
    positions = torch.arange(num_blocks * block_size)
    outside = positions >= seq_lens  # [n, L]
    own = (seq_lens - num_queries + torch.arange(num_queries))[:, None, :, None]
    future = positions > own  # [n, 1, Q, L]
    dtype = torch.float32 if key_cache.dtype in EIGHT_BITS else key_cache.dtype
    return _Group(
        rows=starts[:, None] + torch.arange(num_queries),
        pages=_pages(batch.block_table[sequences, :num_blocks].long(), outside[:, ::block_size], num_kv_heads),
        outside=outside[:, None].expand(-1, num_kv_heads, -1).flatten().nonzero().flatten(),
        own=own,
        mask=torch.zeros(future.shape, dtype=dtype).masked_fill_(future, -torch.inf),
        key=torch.empty(len(members), num_kv_heads, len(positions), head_dim, dtype=dtype),
        value=torch.empty(len(members), num_kv_heads, len(positions), head_dim, dtype=dtype),
    )


def _biased(group: _Group, window: int | None, alibi_slopes: Tensor | None) -> Tensor:
    """What is added to the scores: the group's mask, `[n, 1, Q, L]`, with what is further back than `window` hidden
    too; with slopes `[n, H, Q, L]`.
    """
    mask, positions = group.mask, torch.arange(group.mask.shape[-1])
    if window is not None:
        mask = mask.masked_fill(positions <= group.own - window, -torch.inf)
    if alibi_slopes is None:
        return mask
    return mask + (alibi_slopes.view(-1, 1, 1) * (positions - group.own)).to(mask.dtype)


def _attend_by_hand(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor,
    *,
    scale: float,
    soft_cap: float | None,
    sinks: Tensor | None,
) -> Tensor:
    """What torch's own attention cannot do: capped scores, and sinks. `[n, H, Q, D]` over `[n, K, L, D]`."""
    grouped = query.reshape(len(query), key.shape[1], -1, *query.shape[2:]).float()
    scores = grouped @ key.float().transpose(-1, -2)[:, :, None] * scale
    if soft_cap is not None:
        scores = torch.tanh(scores / soft_cap) * soft_cap
    by_head = mask.shape[1] > 1
    mask = mask.reshape(len(mask), *grouped.shape[1:3], *mask.shape[2:]) if by_head else mask[:, None]
    weights = softmax_with_sinks(scores + mask, sinks)
    return (weights @ value.float()[:, :, None]).flatten(1, 2).to(query.dtype)


def _pages(block_table: Tensor, unused: Tensor, num_kv_heads: int) -> Tensor:
    """Rows of the cache seen as [num_blocks K, …], by sequence, head, block; block 0 stands in for unused entries."""
    blocks = block_table.masked_fill(unused, 0)
    return (blocks[:, None] * num_kv_heads + torch.arange(num_kv_heads)[:, None]).flatten()


def _gather(cache: Tensor, group: _Group, out: Tensor) -> Tensor:
    """The group's keys or values into `out`, `[n, K, L, D]`, in one copy where the dtype is the same.

    Slots past a sequence's length are zeroed: they may hold another's NaN, and weight 0 times NaN is NaN.
    """
    num_blocks, num_kv_heads, block_size, columns = cache.shape
    pages = cache.view(num_blocks * num_kv_heads, block_size * columns)
    head_dim = out.shape[3]
    rows = out.view(-1, block_size * head_dim)
    if cache.dtype == out.dtype:
        torch.index_select(pages, 0, group.pages, out=rows)
    elif cache.dtype == INT8:
        held = pages[group.pages].view(-1, 1, block_size, columns)
        torch.mul(
            int8.numbers_of(held), int8.scales_of(held).float()[..., None], out=rows.view(-1, 1, block_size, head_dim)
        )
    else:
        rows.copy_(pages[group.pages])
    out.view(-1, head_dim).index_fill_(0, group.outside, 0)
    return out

"""What the layers of a step share: tiles, lists of work, and the memory in which parts wait for their merge."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import torch

from octavo_kernels.cache_dtype import head_dim_of
from octavo_kernels.triton.splits import split_work
from octavo_kernels.triton.work import WorkList, make_work

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import PagedBatch
    from octavo_kernels.triton.launches import Launch
    from octavo_kernels.triton.tiles import QueryTiles


class Parts(NamedTuple):
    """What programs leave for the merge, in fp32; shared by the layers of a step. Slots are two for each program and
    row of its tile (merge.py), or one for each token, head and split (splits.py).
    """

    acc: Tensor  # [*slots, head_dim]
    largest: Tensor  # [*slots]
    total: Tensor  # [*slots]


class Splits(NamedTuple):
    """Of contexts, in the batch-invariant mode."""

    tiles: int  # of positions, in a split
    most: int  # that a context may have


@dataclass(frozen=True, slots=True)
class Plan:
    launch: Launch
    programs: int
    tiles: QueryTiles
    parts: Parts
    splits: Splits | None
    by_window: dict[int, WorkList] = field(default_factory=dict)

    def work(self, batch: PagedBatch, num_kv_heads: int, window: int) -> WorkList:
        """The work list for layers of this window, made for the first of them."""
        if window not in self.by_window:
            self.by_window[window] = self._make_work(batch, num_kv_heads, window)
        return self.by_window[window]

    def _make_work(self, batch: PagedBatch, num_kv_heads: int, window: int) -> WorkList:
        sizes = {"num_kv_heads": num_kv_heads, "columns": self.launch.columns, "num_programs": self.programs}
        if self.splits is not None:
            split, num_splits = self.splits
            return split_work(batch, self.tiles, split=split, num_splits=num_splits, window=window, **sizes)
        return make_work(batch, self.tiles, window=window, side_by_side=not self.launch.is_decode, **sizes)


def make_parts(slots: tuple[int, int], key_cache: Tensor) -> Parts:
    def empty(*size: int) -> Tensor:
        return torch.empty((*slots, *size), dtype=torch.float32, device=key_cache.device)

    return Parts(empty(head_dim_of(key_cache)), empty(), empty())

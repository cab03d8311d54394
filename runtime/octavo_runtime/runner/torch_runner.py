"""Computes steps with torch: ints in, the decoder's pass, ints out."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch

from octavo_kernels.interface import PagedBatch
from octavo_runtime.core.batch import StepResult
from octavo_runtime.model.decoder import LayerCache
from octavo_runtime.runner.machine import choose_step_tokens
from octavo_runtime.runner.sampler import sample

if TYPE_CHECKING:
    from octavo_runtime.core.batch import FlatBatch
    from octavo_runtime.model.decoder import Decoder
    from octavo_runtime.model.spec import ModelInfo


class TorchRunner:
    """Implements `Runner`: a decoder with its KV cache."""

    def __init__(
        self,
        decoder: Decoder,
        info: ModelInfo,
        *,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Allocates `num_blocks` blocks of `block_size` tokens for every layer, in `dtype` on `device`."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.step_tokens = choose_step_tokens(device)
        self._decoder = decoder
        self.device = device
        self._caches = allocate_caches(info, num_blocks, block_size, device=device, dtype=dtype)

    def execute(self, batch: FlatBatch) -> StepResult:
        """Run one step. Raises `FloatingPointError` when a sequence's logits are not numbers."""
        logits = self._decoder.forward(
            self._tensor(batch.token_ids, torch.int64),
            self._tensor(batch.positions, torch.int64),
            self._paged(batch),
            self._caches,
            self._tensor(batch.sample_rows, torch.int64),
        )
        return StepResult(sample(logits, batch.sampling) if batch.sampling else [])

    def _paged(self, batch: FlatBatch) -> PagedBatch:
        longest = max(len(table) for table in batch.block_tables)
        tables = [table + [0] * (longest - len(table)) for table in batch.block_tables]
        return PagedBatch(
            query_start_loc=self._tensor(batch.query_start_loc, torch.int32),
            seq_lens=self._tensor(batch.seq_lens, torch.int32),
            block_table=self._tensor(tables, torch.int32),
            slot_mapping=self._tensor(batch.slot_mapping, torch.int64),
            max_query_len=max(end - start for start, end in pairwise(batch.query_start_loc)),
            max_seq_len=max(batch.seq_lens),
        )

    def _tensor(self, values: list[int] | list[list[int]], dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(values, dtype=dtype, device=self.device)


def allocate_caches(
    info: ModelInfo, num_blocks: int, block_size: int, *, device: torch.device, dtype: torch.dtype
) -> list[LayerCache]:
    """Caches for all layers, not filled: attention reads no slot that was not written (`KernelBackend.attend`), and on
    a CPU the system hands out a page of memory only when it is first touched.
    """
    shape = (num_blocks, info.num_kv_heads, block_size, info.head_dim)
    return [
        LayerCache(torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype))
        for _ in range(info.num_layers)
    ]

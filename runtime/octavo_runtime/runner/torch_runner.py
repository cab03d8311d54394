"""Computes steps with torch: ints in, the decoder's pass, ints out."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.interface import PagedBatch
from octavo_runtime.core.batch import StepResult
from octavo_runtime.model.decoder import LayerCache
from octavo_runtime.runner.launched import Done, UnderWay, is_described, put_carried
from octavo_runtime.runner.logprobs import describe
from octavo_runtime.runner.machine import choose_step_tokens
from octavo_runtime.runner.sampler import choose, pick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo_runtime.core.batch import FlatBatch, ScoreRow, TokenLogprobs
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.model.spec import CacheShape
    from octavo_runtime.runner.base import Launched

    _Inputs = tuple[torch.Tensor, torch.Tensor, PagedBatch, list[LayerCache]]

SCORE_ROWS: Final = 64  # of a prompt at a time: the logits of 2,048 rows of a large vocabulary would be 1.2 GB


class TorchRunner:
    """Implements `Runner`: a decoder with its KV cache."""

    def __init__(
        self,
        decoder: AnyDecoder,
        *,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        """Allocates `num_blocks` blocks of `block_size` tokens for every layer on `device`; `dtype` is the cache's."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.step_tokens = choose_step_tokens(device)
        self._decoder = decoder
        self.device = device
        self.computes_apart = device.type == "cuda"
        self._sampled: torch.Tensor | None = None  # tokens of the step launched last, on the device; None: it raised
        self._caches = allocate_caches(decoder.cache_shapes, num_blocks, block_size, device=device, dtype=dtype)

    def execute(self, batch: FlatBatch) -> StepResult:
        """Run one step. Raises `FloatingPointError` when a sequence's logits are not numbers."""
        return self._compute(batch, self._inputs(batch))

    @torch.inference_mode()
    def launch(self, batch: FlatBatch) -> Launched:
        """Begin one step. Its tokens stay on the device, for the next one, until somebody waits for them. With log
        probabilities to give, it is computed here and now.
        """
        inputs = self._inputs(batch)
        sampled, self._sampled = self._sampled, None
        put_carried(inputs[0], batch, sampled)
        if is_described(batch):
            result = self._compute(batch, inputs)
            self._sampled = self._tensor(result.tokens, torch.int64)
            return Done(result)
        logits = self._decoder.forward(*inputs, self._tensor(batch.sample_rows, torch.int64))
        choice = pick(logits, batch.sampling)
        self._sampled = choice.tokens
        return UnderWay(choice)

    def _inputs(self, batch: FlatBatch) -> _Inputs:
        return (
            self._tensor(batch.token_ids, torch.int64),
            self._tensor(batch.positions, torch.int64),
            self._paged(batch),
            self._caches,
        )

    def _compute(self, batch: FlatBatch, inputs: _Inputs) -> StepResult:
        rows = self._tensor(batch.sample_rows, torch.int64)
        if not batch.scoring:
            return _chosen(self._decoder.forward(*inputs, rows), batch)
        asked = [batch.scoring[at : at + SCORE_ROWS] for at in range(0, len(batch.scoring), SCORE_ROWS)]
        pieces = [self._tensor([score.row for score in piece], torch.int64) for piece in asked]
        logits = self._decoder.forward_pieces(*inputs, [rows, *pieces])
        result = _chosen(next(logits), batch)
        return replace(result, scores=[score for piece in map(_scores, logits, asked) for score in piece])

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


def _chosen(logits: torch.Tensor, batch: FlatBatch) -> StepResult:
    return StepResult(*choose(logits, batch.sampling)) if batch.sampling else StepResult([])


def _scores(logits: torch.Tensor, asked: Sequence[ScoreRow]) -> list[TokenLogprobs]:
    return describe(logits, [score.token for score in asked], [score.top for score in asked])


def allocate_caches(
    shapes: Sequence[CacheShape], num_blocks: int, block_size: int, *, device: torch.device, dtype: torch.dtype
) -> list[LayerCache]:
    """Caches for all layers, not filled: attention reads no slot that was not written (`KernelBackend.attend`), and on
    a CPU the system hands out a page of memory only when it is first touched.
    """

    def cache(shape: CacheShape) -> torch.Tensor:
        return torch.empty((num_blocks, shape.num_kv_heads, block_size, shape.head_dim), device=device, dtype=dtype)

    return [LayerCache(cache(shape), cache(shape)) for shape in shapes]

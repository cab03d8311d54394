"""A model that transformers' own code computes, on Octavo's pages, behind the same two names as our decoder."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from octavo_runtime.model.transformers_attention import PAGED, PagedStep, answered_by

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend, PagedBatch
    from octavo_runtime.model.decoder import LayerCache
    from octavo_runtime.model.spec import CacheShape
    from octavo_runtime.model.transformers_attention import Attention, AttentionCall


class TransformersDecoder:
    """Implements `AnyDecoder`. The tokens of a step go through the model as one flat row, told apart by position."""

    def __init__(self, model: Any, calls: Sequence[AttentionCall], backend: KernelBackend) -> None:  # noqa: ANN401
        """`model` is a causal language model of transformers; `calls` its attention calls, in order."""
        model.set_attn_implementation(PAGED)
        self._model = model
        self._calls = calls
        self._backend = backend
        self.cache_shapes: Sequence[CacheShape] = [call.shape for call in calls]

    @torch.inference_mode()
    def forward(
        self, token_ids: Tensor, positions: Tensor, batch: PagedBatch, caches: Sequence[LayerCache], rows: Tensor
    ) -> Tensor:
        """What `AnyDecoder.forward` says."""
        step = PagedStep(self._backend, batch, self._calls, caches)
        return run_flat(self._model, token_ids, positions, step, rows)

    def forward_pieces(
        self,
        token_ids: Tensor,
        positions: Tensor,
        batch: PagedBatch,
        caches: Sequence[LayerCache],
        pieces: Sequence[Tensor],
    ) -> Iterator[Tensor]:
        """What `AnyDecoder.forward_pieces` says. Their heads cannot be called alone, so each piece is a pass."""
        for rows in pieces:
            yield self.forward(token_ids, positions, batch, caches, rows)


def run_flat(model: Any, token_ids: Tensor, positions: Tensor, attention: Attention, rows: Tensor) -> Tensor:  # noqa: ANN401
    """Logits `[len(rows), vocab_size]` in fp32 of T tokens, whose attention `attention` answers.

    The mask of ones keeps transformers from telling sequences apart by itself, which it does by positions.
    """
    keep = {"logits_to_keep": rows} if _can_keep_rows(type(model)) else {}
    with answered_by(attention):
        output = model(
            input_ids=token_ids[None],
            position_ids=positions[None],
            attention_mask=torch.ones_like(token_ids)[None],
            use_cache=False,
            **keep,
        )
    logits: Tensor = output.logits[0]
    return (logits if keep else logits[rows]).float()


def _can_keep_rows(model_class: type) -> bool:
    return "logits_to_keep" in inspect.signature(model_class.forward).parameters  # type: ignore[attr-defined]

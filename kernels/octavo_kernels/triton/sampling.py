"""The verbs that choose tokens as Triton kernels: one launch each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton

from octavo_kernels.check import check_adjust, check_draw
from octavo_kernels.plain import PlainVerbs
from octavo_kernels.triton.adjust import ADJUST_BLOCK, adjust_kernel
from octavo_kernels.triton.draw import DRAW_BLOCK, DRAW_WARPS, draw_kernel

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.draws import Changes, Draws


class TritonSampling(PlainVerbs):
    """Biases and penalties, and draws."""

    def adjust(self, logits: Tensor, changes: Changes) -> None:
        check_adjust(logits, changes)
        count = changes.places.shape[0]
        if count:
            adjust_kernel[(triton.cdiv(count, ADJUST_BLOCK),)](
                logits, *changes, count, BLOCK=ADJUST_BLOCK, enable_fp_fusion=True
            )

    def draw(self, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        check_draw(logits, draws)
        rows, size = logits.shape
        tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
        best = torch.empty(rows, dtype=torch.float32, device=logits.device)
        if rows:
            draw_kernel[(rows,)](
                logits,
                *draws,
                tokens,
                best,
                logits.stride(0),
                size,
                BLOCK=DRAW_BLOCK,
                num_warps=DRAW_WARPS,
                enable_fp_fusion=True,
            )
        return tokens, best

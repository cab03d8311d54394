"""The small verbs around attention as Triton kernels: one launch each, fp32 inside, results in the input's dtype."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton

from octavo_kernels.check import check_gated, check_rms_norm
from octavo_kernels.plain import PlainVerbs
from octavo_kernels.triton.gated import GATED_BLOCK, gated_kernel
from octavo_kernels.triton.rms_norm import norm_launch, rms_norm_kernel

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import Activation


class TritonNeighbours(PlainVerbs):
    """Norms and gated activation; the rotation alone is torch's."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        check_rms_norm(x, weight)
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _norm(whole_tokens(x), None, weight, eps, out=out, total=None)
        return out

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        check_rms_norm(x, weight, residual)
        total, out = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
        _norm(whole_tokens(x), whole_tokens(residual), weight, eps, out=out, total=total)
        return total, out

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        check_gated(gate_up, activation)
        gate_up = whole_tokens(gate_up)
        rows, width = gate_up.shape[0], gate_up.shape[1] // 2
        out = torch.empty(rows, width, dtype=gate_up.dtype, device=gate_up.device)
        gated_kernel[rows, triton.cdiv(width, GATED_BLOCK)](
            gate_up,
            out,
            gate_up.stride(0),
            WIDTH=width,
            BLOCK=GATED_BLOCK,
            ACTIVATION=activation,
            num_warps=4,
            enable_fp_fusion=True,
        )
        return out


def _norm(x: Tensor, residual: Tensor | None, weight: Tensor, eps: float, *, out: Tensor, total: Tensor | None) -> None:
    size = x.shape[-1]
    launch = norm_launch(size)
    num_rows = x.numel() // size
    rms_norm_kernel[(triton.cdiv(num_rows, launch.rows),)](
        x,
        residual,
        weight,
        out,
        total,
        num_rows,
        x.stride(0),
        0 if residual is None else residual.stride(0),
        eps,
        HEADS=x.shape[1] if x.dim() == 3 else 1,
        SIZE=size,
        PADDED=launch.padded,
        ROWS=launch.rows,
        ADD=residual is not None,
        num_warps=launch.num_warps,
        enable_fp_fusion=True,
    )


def whole_tokens(x: Tensor) -> Tensor:
    """`[T, size]` or `[T, heads, size]` with every token in one piece; a token may be any distance from the next."""
    return x if x.stride()[1:] == ((x.shape[2], 1) if x.dim() == 3 else (1,)) else x.contiguous()

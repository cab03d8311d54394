"""The small verbs of `KernelBackend` in plain torch: their specification, and what backends without better ones use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
import torch.nn.functional as F  # noqa: N812  torch's own convention

from octavo_kernels import draws as plain_draws

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor

    from octavo_kernels.draws import Changes, Draws
    from octavo_kernels.interface import Activation, KernelBackend


def _gelu_tanh(x: Tensor) -> Tensor:
    return F.gelu(x, approximate="tanh")


_ACTIVATIONS: Final[Mapping[Activation, Callable[[Tensor], Tensor]]] = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": _gelu_tanh,
}


class PlainVerbs:
    """Norm, rotation and gated activation on any device, in any floating dtype, and the choice of tokens."""

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        precise = x.float()
        scale = torch.rsqrt(precise.square().mean(-1, keepdim=True) + eps)
        return (precise * scale * weight).to(x.dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        total = x + residual
        return total, self.rms_norm(total, weight, eps)

    def rotate(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        half = cos.shape[-1]
        first, second, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat((first * cos - second * sin, second * cos + first * sin, rest), dim=-1)

    def gated(self, gate_up: Tensor, activation: Activation) -> Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return _ACTIVATIONS[activation](gate) * up

    def write_rotated(
        self: KernelBackend,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_cache: Tensor,
        value_cache: Tensor,
        *,
        slot_mapping: Tensor,
        norms: tuple[Tensor, Tensor] | None,
        eps: float,
        rotation: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        if norms is not None:
            query, key = self.rms_norm(query, norms[0], eps), self.rms_norm(key, norms[1], eps)
        if rotation is not None:
            query, key = self.rotate(query, *rotation), self.rotate(key, *rotation)
        self.write_kv(key, value, key_cache, value_cache, slot_mapping)
        return query

    def adjust(self, logits: Tensor, changes: Changes) -> None:
        plain_draws.adjust(logits, changes)

    def draw(self, logits: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        return plain_draws.draw(logits, draws)

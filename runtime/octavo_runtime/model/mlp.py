"""What follows attention in a layer: one gated MLP, or a choice of many (a mixture of experts)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.model.spec import Activation, MixtureSpec
    from octavo_runtime.model.weights import MixtureWeights, MlpWeights


def mlp(backend: KernelBackend, weights: MlpWeights, x: Tensor, activation: Activation) -> Tensor:
    """`down(act(gate x) * up x)`, `[T, C]` to `[T, C]` (Shazeer, 2020)."""
    return weights.down(backend.gated(weights.gate_up(x), activation))


def mixture(
    backend: KernelBackend, spec: MixtureSpec, weights: MixtureWeights, x: Tensor, activation: Activation
) -> Tensor:
    """Each token through the experts that its router prefers, weighted by how much, `[T, C]` to `[T, C]`.

    A loop over the experts that have tokens: each is one product with a row per token. The experts' parts of a token
    are summed in the experts' order, so a token's result does not depend on its neighbours.
    """
    probabilities = weights.router(x).float().softmax(dim=-1)
    shares, chosen = probabilities.topk(spec.experts_per_token, dim=-1)
    if spec.normalise:
        shares = shares / shares.sum(dim=-1, keepdim=True)
    shares = shares.to(x.dtype)
    out = _shared(backend, weights, x, activation)
    for expert in torch.unique(chosen).tolist():
        rows, places = (chosen == expert).nonzero(as_tuple=True)
        out.index_add_(0, rows, mlp(backend, weights.experts[expert], x[rows], activation) * shares[rows, places, None])
    return out


def _shared(backend: KernelBackend, weights: MixtureWeights, x: Tensor, activation: Activation) -> Tensor:
    """The part that every token gets (Qwen2-MoE), or zeros."""
    if weights.shared is None or weights.shared_gate is None:
        return torch.zeros_like(x)
    return mlp(backend, weights.shared, x, activation) * weights.shared_gate(x).sigmoid()

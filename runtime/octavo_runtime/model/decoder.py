"""The decoder of the Llama family: Llama, Mistral, SmolLM2, Qwen2 and Qwen3 are one program with a few switches.

    embed ─┬─ norm ─ qkv ─ (norm q, k) ─ rotate ─ write KV ─ attend ─ out ─ + ─┬─ norm ─ gate·up ─ down ─ + ─ … ─ logits
           └────────────────────────────────────────────────────────────────┘  └──────────────────────────┘

All tokens of a step go through as one flat row, whatever sequences they are of; only attention looks at `PagedBatch`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F  # noqa: N812  torch's own convention

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend, PagedBatch
    from octavo_runtime.model.linear import Linear
    from octavo_runtime.model.spec import ModelInfo


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. H query heads, K key-value heads, D head_dim, C hidden_size, I intermediate_size."""

    attention_norm: Tensor  # [C]
    qkv: Linear  # [(H + 2K) D, C]
    query_norm: Tensor | None  # [D], Qwen3
    key_norm: Tensor | None  # [D]
    output: Linear  # [C, H D]
    mlp_norm: Tensor  # [C]
    gate_up: Linear  # [2 I, C]
    down: Linear  # [C, I]


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    embedding: Tensor  # [vocab_size, C], in the checkpoint's own dtype
    layers: Sequence[LayerWeights]
    final_norm: Tensor  # [C]
    lm_head: Linear  # [vocab_size, C]
    rope_frequencies: Tensor  # [D / 2] fp32, radians per position


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's paged keys and values, each `[num_blocks, K, block_size, D]`."""

    key: Tensor
    value: Tensor


@dataclass(frozen=True, slots=True)
class Rotation:
    """Cosines and sines of this step's positions, each `[T, 1, D / 2]`, shared by all layers and heads."""

    cos: Tensor
    sin: Tensor


class Decoder:
    """Weights, and the pass of one step through them. Holds nothing of any sequence."""

    def __init__(self, info: ModelInfo, weights: DecoderWeights, backend: KernelBackend, dtype: torch.dtype) -> None:
        self._info = info
        self._weights = weights
        self._backend = backend
        self._dtype = dtype
        self._scale = info.head_dim**-0.5

    @torch.inference_mode()
    def forward(
        self, token_ids: Tensor, positions: Tensor, batch: PagedBatch, caches: Sequence[LayerCache], rows: Tensor
    ) -> Tensor:
        """Run T tokens, writing their keys and values into `caches`; return logits `[len(rows), vocab_size]` in fp32.

        `token_ids` and `positions` are `[T]` int64. `rows` `[R]` int64 picks the tokens whose successor is wanted:
        the product with the vocabulary is the largest of the step, and a prefill needs one row of it.
        """
        weights = self._weights
        batch = self._backend.prepare(batch, caches[0].key, self._info.num_heads)
        rotation = self._rotation(positions)
        hidden = weights.embedding[token_ids].to(self._dtype)
        for layer, cache in zip(weights.layers, caches, strict=True):
            hidden = hidden + self._attention(layer, self._norm(hidden, layer.attention_norm), rotation, batch, cache)
            hidden = hidden + _mlp(layer, self._norm(hidden, layer.mlp_norm))
        return weights.lm_head(self._norm(hidden[rows], weights.final_norm)).float()

    def _attention(
        self, layer: LayerWeights, x: Tensor, rotation: Rotation, batch: PagedBatch, cache: LayerCache
    ) -> Tensor:
        info = self._info
        heads = layer.qkv(x).view(x.shape[0], -1, info.head_dim)
        query, key, value = torch.split(heads, [info.num_heads, info.num_kv_heads, info.num_kv_heads], dim=1)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = self._norm(query, layer.query_norm), self._norm(key, layer.key_norm)
        query, key = _rotate(query, rotation), _rotate(key, rotation)
        self._backend.write_kv(key, value, cache.key, cache.value, batch.slot_mapping)
        out = torch.empty_like(query)
        self._backend.attend(query, cache.key, cache.value, batch, scale=self._scale, out=out)
        return layer.output(out.flatten(1))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return rms_norm(x, weight, self._info.rms_norm_eps)

    def _rotation(self, positions: Tensor) -> Rotation:
        angles = (positions.float()[:, None] * self._weights.rope_frequencies)[:, None]
        return Rotation(angles.cos().to(self._dtype), angles.sin().to(self._dtype))


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """`x / rms(x) * weight` over the last dimension, the mean in fp32 (Zhang and Sennrich, 2019)."""
    precise = x.float()
    scale = torch.rsqrt(precise.square().mean(-1, keepdim=True) + eps)
    return (precise * scale).to(x.dtype) * weight


def _rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (i, i + D/2) of a head by its position's angle (RoFormer, GPT-NeoX's order). `[T, heads, D]`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = rotation.cos, rotation.sin
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _mlp(layer: LayerWeights, x: Tensor) -> Tensor:
    gate, up = layer.gate_up(x).chunk(2, dim=-1)
    return layer.down(F.silu(gate) * up)

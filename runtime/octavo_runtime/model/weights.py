"""The decoder's weights. H query heads, K key-value heads, D head_dim, C hidden_size, I intermediate_size.

Of a model that is divided between ranks these are the rank's own: its heads, its part of I, its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from octavo_runtime.model.linear import Linear
    from octavo_runtime.model.rope import RopeTable
    from octavo_runtime.model.shard import Span


@dataclass(frozen=True, slots=True)
class MlpWeights:
    gate_up: Linear  # [2 I, C]
    down: Linear  # [C, I]


@dataclass(frozen=True, slots=True)
class MixtureWeights:
    router: Linear  # [num_experts, C]
    experts: Sequence[MlpWeights]
    shared: MlpWeights | None
    shared_gate: Linear | None  # [1, C]


@dataclass(frozen=True, slots=True)
class LayerWeights:
    """One layer. Norms are in fp32; one that is None is not there."""

    attention_norm: Tensor | None  # [C], before attention
    qkv: Linear  # [(H + 2K) D, C]
    query_norm: Tensor | None  # [D], or [H D] over the row of all ranks
    key_norm: Tensor | None  # [D], or [K D]
    output: Linear  # [C, H D]
    attention_post_norm: Tensor | None  # [C], on what attention adds
    mlp_norm: Tensor | None  # [C]
    mlp: MlpWeights | MixtureWeights
    mlp_post_norm: Tensor | None  # [C]


@dataclass(frozen=True, slots=True)
class DecoderWeights:
    vocabulary: Span  # the tokens that `embedding` and `lm_head` have rows for; those past the end are never meant
    embedding: Tensor  # [tokens, C], in the checkpoint's own dtype
    layers: Sequence[LayerWeights]
    final_norm: Tensor  # [C] fp32
    lm_head: Linear  # [tokens, C]
    ropes: Sequence[RopeTable]

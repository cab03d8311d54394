"""Weights from disk into the decoder: read one by one, fused, laid out for the device, and the source let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.decoder import DecoderWeights, LayerWeights
from octavo_runtime.model.linear import Linear
from octavo_runtime.model.rope import rope_frequencies

if TYPE_CHECKING:
    from collections.abc import Callable
    from collections.abc import Set as AbstractSet

    from torch import Tensor

    from octavo_runtime.model.spec import ModelInfo


class WeightSource(Protocol):
    """Tensors by transformers' names, each `[out_features, in_features]` or `[features]`, on the CPU."""

    @property
    def names(self) -> AbstractSet[str]: ...

    def load(self, name: str) -> Tensor: ...


def open_weights(info: ModelInfo) -> WeightSource:
    """The source for `info`'s format. Only the reader that is needed is imported."""
    if info.weight_format == "gguf":
        from octavo_runtime.model.gguf_weights import GGUFWeights  # noqa: PLC0415

        return GGUFWeights(info)
    from octavo_runtime.model.safetensors_weights import SafetensorsWeights  # noqa: PLC0415

    return SafetensorsWeights(info.path)


def load_weights(
    info: ModelInfo,
    source: WeightSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    progress: Callable[[float], None] = lambda _: None,
) -> DecoderWeights:
    """Load every weight that `info` calls for. `progress` hears the part done, 0 to 1, after each layer.

    Raises `ModelUnsupported` when a weight is missing or of another shape, or when the source holds weights that this
    decoder would ignore: a model that runs without a part of itself answers, but wrongly.
    """
    loader = _Loader(info, source, device, dtype)
    total = info.num_layers + 1
    layers = []
    for index in range(info.num_layers):
        layers.append(loader.layer(f"model.layers.{index}."))
        progress((index + 1) / total)
    weights = loader.around(layers)
    loader.refuse_leftovers()
    progress(1.0)
    return weights


class _Loader:
    def __init__(self, info: ModelInfo, source: WeightSource, device: torch.device, dtype: torch.dtype) -> None:
        self._info = info
        self._source = source
        self._device = device
        self._dtype = dtype
        self._unused = set(source.names)

    def layer(self, prefix: str) -> LayerWeights:
        info = self._info
        hidden, inner, heads = info.hidden_size, info.intermediate_size, info.num_heads * info.head_dim
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        kv_heads = info.num_kv_heads * info.head_dim
        qkv = {attention + "q_proj": heads, attention + "k_proj": kv_heads, attention + "v_proj": kv_heads}
        return LayerWeights(
            attention_norm=self._vector(prefix + "input_layernorm.weight", hidden),
            qkv=self._linear(qkv, hidden, bias=info.qkv_bias),
            query_norm=self._vector(attention + "q_norm.weight", info.head_dim) if info.qk_norm else None,
            key_norm=self._vector(attention + "k_norm.weight", info.head_dim) if info.qk_norm else None,
            output=self._linear({attention + "o_proj": hidden}, heads, bias=info.output_bias),
            mlp_norm=self._vector(prefix + "post_attention_layernorm.weight", hidden),
            gate_up=self._linear({mlp + "gate_proj": inner, mlp + "up_proj": inner}, hidden, bias=info.mlp_bias),
            down=self._linear({mlp + "down_proj": hidden}, inner, bias=info.mlp_bias),
        )

    def around(self, layers: list[LayerWeights]) -> DecoderWeights:
        """What comes before and after the layers.

        With tied embeddings the table is kept twice where the product packs it, for the packed form cannot be looked
        up in: in the checkpoint's own dtype, which is exact, and as the product's weight.
        """
        info = self._info
        table = (info.vocab_size, info.hidden_size)
        embedding = self._load("model.embed_tokens.weight", table).to(self._device)
        head = embedding if info.tie_word_embeddings else self._load("lm_head.weight", table)
        factors = self._load("rope_factors.weight", (info.head_dim // 2,)) if self._has("rope_factors.weight") else None
        return DecoderWeights(
            embedding=embedding,
            layers=layers,
            final_norm=self._vector("model.norm.weight", info.hidden_size),
            lm_head=Linear(self._place(head)),
            rope_frequencies=rope_frequencies(info, factors).to(self._device),
        )

    def refuse_leftovers(self) -> None:
        tied = {"lm_head.weight"} if self._info.tie_word_embeddings else set()
        left = sorted(name for name in self._unused - tied if not name.endswith("rotary_emb.inv_freq"))
        if left:
            some = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
            raise ModelUnsupported(
                f"{self._info.path} holds {len(left)} weights that {self._info.architecture} lacks: {some}"
            )

    def _linear(self, parts: dict[str, int], in_features: int, *, bias: bool) -> Linear:
        """One product out of several with the same input, stacked in the order given."""
        weights = [self._load(f"{name}.weight", (rows, in_features)) for name, rows in parts.items()]
        biases = [self._load(f"{name}.bias", (rows,)) for name, rows in parts.items()] if bias else []
        return Linear(self._place(_stack(weights)), self._place(_stack(biases)) if biases else None)

    def _vector(self, name: str, size: int) -> Tensor:
        return self._place(self._load(name, (size,)))

    def _has(self, name: str) -> bool:
        return name in self._source.names

    def _load(self, name: str, shape: tuple[int, ...]) -> Tensor:
        if not self._has(name):
            raise ModelUnsupported(f"{self._info.path} has no weight {name}")
        weight = self._source.load(name)
        if tuple(weight.shape) != shape:
            raise ModelUnsupported(f"{self._info.path}: {name} is {tuple(weight.shape)}; config says {shape}")
        self._unused.discard(name)
        return weight

    def _place(self, weight: Tensor) -> Tensor:
        return weight.to(device=self._device, dtype=self._dtype)


def _stack(weights: list[Tensor]) -> Tensor:
    return weights[0] if len(weights) == 1 else torch.cat(weights)

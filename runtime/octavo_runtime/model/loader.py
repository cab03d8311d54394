"""Weights from disk into the decoder: read one by one, cut, fused, laid out for the device, and the source let go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.families import FAMILY_OF_NAME
from octavo_runtime.model.linear import Linear
from octavo_runtime.model.rope import RopeTable, rope_table
from octavo_runtime.model.shard import WHOLE, Cut, Shard, Span, whole
from octavo_runtime.model.weights import DecoderWeights, LayerWeights, MixtureWeights, MlpWeights

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from collections.abc import Set as AbstractSet

    from torch import Tensor

    from octavo_runtime.model.spec import DecoderSpec, LayerSpec, MixtureSpec, ModelInfo, Rope


class WeightSource(Protocol):
    """Tensors by transformers' names, each `[out_features, in_features]` or `[features]`, on the CPU."""

    @property
    def names(self) -> AbstractSet[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def load(self, name: str, cut: Cut | None = None) -> Tensor:
        """The weight, or the part of it that `cut` says."""
        ...


def open_weights(info: ModelInfo, spec: DecoderSpec) -> WeightSource:
    """The source for `info`'s format. Only the reader that is needed is imported."""
    if info.weight_format == "gguf":
        from octavo_runtime.model.gguf_weights import GGUFWeights  # noqa: PLC0415

        return GGUFWeights(info, spec)
    from octavo_runtime.model.safetensors_weights import SafetensorsWeights  # noqa: PLC0415

    return SafetensorsWeights(info.path)


def load_weights(
    info: ModelInfo,
    spec: DecoderSpec,
    source: WeightSource,
    *,
    device: torch.device,
    dtype: torch.dtype,
    max_len: int | None = None,
    shard: Shard = WHOLE,
    progress: Callable[[float], None] = lambda _: None,
) -> DecoderWeights:
    """Load every weight that `spec`, the whole model, calls for, or `shard` of each. `progress` hears the part done,
    0 to 1, after each layer.

    `max_len` is the longest sequence that will be served, where it is less than the model's.
    Raises `ModelUnsupported` when a weight is missing or of another shape, or when the source holds weights that this
    decoder would ignore: a model that runs without a part of itself answers, but wrongly.
    """
    loader = _Loader(info, spec, source, shard, device=device, dtype=dtype)
    layers = []
    for index, layer in enumerate(spec.layers):
        layers.append(loader.layer(f"model.layers.{index}.", layer))
        progress((index + 1) / (len(spec.layers) + 1))
    weights = loader.around(layers, max_len or info.max_positions)
    loader.refuse_leftovers()
    progress(1.0)
    return weights


class _Loader:
    def __init__(
        self,
        info: ModelInfo,
        spec: DecoderSpec,
        source: WeightSource,
        shard: Shard,
        *,
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        self._info = info
        self._spec = spec
        self._names = FAMILY_OF_NAME[info.architecture].names
        self._source = source
        self._shard = shard
        self._device = device
        self._dtype = dtype
        self._unused = set(source.names)

    def layer(self, prefix: str, layer: LayerSpec) -> LayerWeights:
        spec, names = self._spec, self._names
        hidden = spec.hidden_size
        heads = self._shard.share(spec.num_heads, spec.head_dim)
        kv_heads = self._shard.share(spec.num_kv_heads, spec.head_dim)
        return LayerWeights(
            attention_norm=self._norm(prefix, names.attention_norm, hidden),
            qkv=self._linear(_parts(prefix, names.qkv, (heads, kv_heads, kv_heads)), hidden, bias=spec.qkv_bias),
            query_norm=self._qk_norm(prefix, names.query_norm, heads),
            key_norm=self._qk_norm(prefix, names.key_norm, kv_heads),
            output=self._summed(prefix + names.output, heads, bias=spec.output_bias),
            attention_post_norm=self._norm(prefix, names.attention_post_norm, hidden),
            mlp_norm=self._norm(prefix, names.mlp_norm, hidden),
            mlp=self._mixture(prefix, spec.mixture) if layer.mixture and spec.mixture else self._plain_mlp(prefix),
            mlp_post_norm=self._norm(prefix, names.mlp_post_norm, hidden),
        )

    def around(self, layers: list[LayerWeights], max_len: int) -> DecoderWeights:
        """What comes before and after the layers.

        With tied embeddings the table is kept twice where the product packs it, for the packed form cannot be looked
        up in: in the checkpoint's own dtype, which is exact, and as the product's weight.
        """
        spec = self._spec
        vocabulary = self._shard.vocabulary(self._info.vocab_size)
        embedding = self._token_rows("model.embed_tokens.weight", vocabulary).to(self._device)
        head = embedding if spec.tie_word_embeddings else self._token_rows("lm_head.weight", vocabulary)
        return DecoderWeights(
            vocabulary=vocabulary,
            embedding=embedding,
            layers=layers,
            final_norm=self._norm_vector("model.norm.weight", whole(spec.hidden_size)),
            lm_head=Linear(self._place(head)),
            ropes=[self._rope_table(rope, max_len) for rope in spec.ropes],
        )

    def refuse_leftovers(self) -> None:
        tied = {"lm_head.weight"} if self._spec.tie_word_embeddings else set()
        left = sorted(name for name in self._unused - tied if not name.endswith("rotary_emb.inv_freq"))
        if left:
            some = ", ".join(left[:3]) + (", …" if len(left) > 3 else "")
            raise ModelUnsupported(
                f"{self._info.path} holds {len(left)} weights that {self._info.architecture} lacks: {some}"
            )

    def _plain_mlp(self, prefix: str) -> MlpWeights:
        names, size = self._names, self._shard.share(self._spec.intermediate_size)
        return self._mlp(prefix, names.gate_up, names.down, size, bias=self._spec.mlp_bias)

    def _mlp(self, prefix: str, gate_up: tuple[str, ...], down: str, size: Span, *, bias: bool = False) -> MlpWeights:
        return MlpWeights(
            gate_up=self._linear(_parts(prefix, gate_up, (size, size)), self._spec.hidden_size, bias=bias),
            down=self._summed(prefix + down, size, bias=bias),
        )

    def _mixture(self, prefix: str, mixture: MixtureSpec) -> MixtureWeights:
        names, hidden = self._names, self._spec.hidden_size
        gate_up, down = names.expert_gate_up, names.expert_down
        size = self._shard.share(mixture.intermediate_size)
        shared = (
            None if mixture.shared_intermediate_size is None else self._shard.share(mixture.shared_intermediate_size)
        )
        return MixtureWeights(
            router=self._linear({prefix + names.router: (whole(mixture.num_experts),)}, hidden),
            experts=[
                self._mlp(prefix + names.expert.format(expert), gate_up, down, size)
                for expert in range(mixture.num_experts)
            ],
            shared=self._mlp(prefix + names.shared_expert, gate_up, down, shared) if shared else None,
            shared_gate=self._linear({prefix + names.shared_gate: (whole(1),)}, hidden) if shared else None,
        )

    def _rope_table(self, rope: Rope, max_len: int) -> RopeTable:
        name = "rope_factors.weight"
        factors = self._load(name, Cut((whole(rope.dim // 2),))) if self._has(name) else None
        table = rope_table(rope, max_len, factors)
        return RopeTable(table.frequencies.to(self._device), table.amplitude)

    def _linear(self, parts: Mapping[str, tuple[Span, ...]], in_features: int, *, bias: bool = False) -> Linear:
        """One product out of several with the same input, stacked in the order given."""
        columns = whole(in_features)
        weights = [self._load(f"{name}.weight", Cut(rows, columns)) for name, rows in parts.items()]
        biases = [self._load(f"{name}.bias", Cut(rows)) for name, rows in parts.items()] if bias else []
        return Linear(self._place(_stack(weights)), self._place(_stack(biases)) if biases else None)

    def _summed(self, name: str, columns: Span, *, bias: bool) -> Linear:
        """A product back to the hidden size, whose parts the ranks sum; so one of them alone adds the bias."""
        rows = (whole(self._spec.hidden_size),)
        weight = self._load(f"{name}.weight", Cut(rows, columns))
        added = self._load(f"{name}.bias", Cut(rows)) if bias else None
        return Linear(self._place(weight), None if added is None or self._shard.rank else self._place(added))

    def _token_rows(self, name: str, vocabulary: Span) -> Tensor:
        """The rank's rows of a table of all tokens, filled up with zeros behind the last token."""
        size, start, stop = (min(value, vocabulary.size) for value in vocabulary)
        rows = self._load(name, Cut((Span(size, start, stop),), whole(self._spec.hidden_size)))
        missing = vocabulary.stop - vocabulary.start - len(rows)
        return torch.cat([rows, rows.new_zeros(missing, rows.shape[1])]) if missing else rows

    def _qk_norm(self, prefix: str, name: str, row: Span) -> Tensor | None:
        if self._spec.qk_norm is None:
            return None
        size = row if self._spec.qk_norm == "row" else whole(self._spec.head_dim)
        return self._norm_vector(f"{prefix}{name}.weight", size)

    def _norm(self, prefix: str, name: str | None, size: int) -> Tensor | None:
        return None if name is None else self._norm_vector(f"{prefix}{name}.weight", whole(size))

    def _norm_vector(self, name: str, size: Span) -> Tensor:
        weight = self._load(name, Cut((size,))).to(device=self._device, dtype=torch.float32)
        return weight + self._spec.norm_offset if self._spec.norm_offset else weight

    def _has(self, name: str) -> bool:
        return name in self._source.names

    def _load(self, name: str, cut: Cut) -> Tensor:
        if not self._has(name):
            raise ModelUnsupported(f"{self._info.path} has no weight {name}")
        if (shape := self._source.shape(name)) != cut.shape:
            raise ModelUnsupported(f"{self._info.path}: {name} is {shape}; config says {cut.shape}")
        self._unused.discard(name)
        return self._source.load(name, None if cut.is_whole else cut)

    def _place(self, weight: Tensor) -> Tensor:
        return weight.to(device=self._device, dtype=self._dtype)


def _parts(prefix: str, names: tuple[str, ...], rows: tuple[Span, ...]) -> dict[str, tuple[Span, ...]]:
    """Rows of each named weight; a checkpoint that has them fused (Phi-3) names one for all."""
    if len(names) == 1:
        return {prefix + names[0]: rows}
    return {prefix + name: (span,) for name, span in zip(names, rows, strict=True)}


def _stack(weights: list[Tensor]) -> Tensor:
    return weights[0] if len(weights) == 1 else torch.cat(weights)

"""What a model is, as plain numbers: what everybody asks of it, and the switches of the decoder that is our own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

WeightFormat = Literal["safetensors", "gguf"]
Activation = Literal["silu", "gelu", "gelu_tanh"]
QKNorm = Literal["head", "row"]


@dataclass(frozen=True, slots=True)
class LinearScaling:
    """Every rotary frequency is divided by `factor`."""

    factor: float


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Only slow frequencies are divided by `factor`, with a ramp between the two wavelength bounds
    `original_max_positions / high_freq_factor` and `/ low_freq_factor` (Llama 3.1's model card).
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """Frequencies that turn less than `beta_slow` times within the trained length are divided by `factor`, those that
    turn more than `beta_fast` times are kept, a ramp between; cosines and sines grow by `amplitude` (YaRN, Peng et
    al., 2023).
    """

    factor: float
    beta_fast: float
    beta_slow: float
    whole_dimensions: bool  # the ramp begins and ends at a whole dimension
    original_max_positions: int
    amplitude: float


@dataclass(frozen=True, slots=True)
class LongScaling:
    """Each frequency has a divisor of its own: one set for models served up to `original_max_positions`, another for
    longer ones (LongRoPE, Ding et al., 2024). Cosines and sines grow by `amplitude`.
    """

    short_factors: tuple[float, ...]  # [dim / 2]
    long_factors: tuple[float, ...]
    original_max_positions: int
    amplitude: float


RopeScaling = LinearScaling | Llama3Scaling | YarnScaling | LongScaling


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding of the first `dim` dimensions of a head; the others are left alone."""

    theta: float
    dim: int
    scaling: RopeScaling | None = None


@dataclass(frozen=True, slots=True)
class LayerSpec:
    window: int | None = None  # tokens that attention looks back on, its own among them; None: all
    rope: int | None = 0  # which of the decoder's ropes; None: no position at all (NoPE)
    mixture: bool = False  # experts in place of one MLP


@dataclass(frozen=True, slots=True)
class MixtureSpec:
    """A router picks `experts_per_token` of `num_experts` MLPs for each token."""

    num_experts: int
    experts_per_token: int
    intermediate_size: int
    normalise: bool  # the chosen experts' weights are made to sum to 1
    shared_intermediate_size: int | None = None  # an MLP for every token beside them, behind a gate (Qwen2-MoE)


@dataclass(frozen=True, slots=True)
class DecoderSpec:
    """The switches of decoder.py. Their defaults make a Llama."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    layers: tuple[LayerSpec, ...]
    ropes: tuple[Rope, ...]
    rms_norm_eps: float
    tie_word_embeddings: bool
    attention_scale: float  # what scores are multiplied by
    activation: Activation = "silu"
    mixture: MixtureSpec | None = None
    qkv_bias: bool = False
    output_bias: bool = False  # on the attention's output projection
    mlp_bias: bool = False
    qk_norm: QKNorm | None = None  # RMSNorm on queries and keys: each head (Qwen3) or all heads as one row (OLMo2)
    norm_offset: float = 0.0  # added to every norm's weight (Gemma stores what is beyond 1)
    attention_soft_cap: float | None = None  # scores s become cap * tanh(s / cap)
    logit_soft_cap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0  # on what attention and MLP add
    logit_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class CacheShape:
    """What one layer's paged keys (and values) are per token."""

    num_kv_heads: int
    head_dim: int

    def bytes_per_token(self, number_bytes: int, scale_bytes: int = 0) -> int:
        """Bytes of one token's key and value, of which each head has `head_dim` numbers and perhaps a scale."""
        return 2 * self.num_kv_heads * (self.head_dim * number_bytes + scale_bytes)


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model's configuration: what server, engine and tokenizer need to know before a weight is read."""

    path: Path  # a folder (safetensors) or a file (gguf)
    weight_format: WeightFormat
    architecture: str  # llama, qwen3, … for our own decoder; else transformers' class
    vocab_size: int
    max_positions: int  # tokens
    bos_token_id: int | None
    eos_token_ids: frozenset[int]
    dtype: str  # the checkpoint's: float32 | bfloat16 | float16
    quantization: str | None  # GGUF's type of most weights, such as Q4_1; None where weights are stored plain
    cache_shapes: tuple[CacheShape, ...]  # per layer; on transformers' path what the configuration lets one expect
    decoder: DecoderSpec | None  # None: transformers' own code computes the model

    def kv_bytes_per_token(self, number_bytes: int, scale_bytes: int = 0) -> int:
        """Bytes that one token takes in the KV cache, all layers together."""
        return sum(shape.bytes_per_token(number_bytes, scale_bytes) for shape in self.cache_shapes)

"""What a decoder of the Llama family is, as plain numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from pathlib import Path

WeightFormat = Literal["safetensors", "gguf"]


@dataclass(frozen=True, slots=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the trained length.

    `linear`: every frequency is divided by `factor`. `llama3`: only the slow ones are, with a ramp between the two
    wavelength bounds `original_max_positions / high_freq_factor` and `/ low_freq_factor` (Llama 3.1's model card).
    """

    kind: Literal["linear", "llama3"]
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """A model's configuration: everything that the loader, the decoder and the tokenizer need to know beforehand."""

    path: Path  # a folder (safetensors) or a file (gguf)
    weight_format: WeightFormat
    architecture: str  # llama | mistral | qwen2 | qwen3
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int  # tokens
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling | None
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool  # on the attention's output projection
    mlp_bias: bool
    qk_norm: bool  # RMSNorm on each head's query and key (Qwen3)
    bos_token_id: int | None
    eos_token_ids: frozenset[int]
    dtype: str  # the checkpoint's: float32 | bfloat16 | float16
    quantization: str | None  # GGUF's type of most weights, such as Q4_1; None where weights are stored plain

    def kv_bytes_per_token(self, dtype_bytes: int) -> int:
        """Bytes that one token takes in the KV cache, all layers together."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * dtype_bytes

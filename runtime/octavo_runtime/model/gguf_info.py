"""A GGUF file's metadata as a `ModelInfo`. Key names: ggml's docs/gguf.md."""

from __future__ import annotations

from collections import Counter
from math import prod
from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.gguf_header import GGUFHeader, read_gguf_header
from octavo_runtime.model.spec import ModelInfo, RopeScaling

if TYPE_CHECKING:
    from pathlib import Path

_ARCHITECTURES: Final = ("llama", "qwen2", "qwen3")  # Mistral's files say llama
_PLAIN_DTYPES: Final = {0: "float32", 1: "float16", 30: "bfloat16"}  # ggml type -> dtype
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


def read_gguf_info(path: Path) -> ModelInfo:
    """Raises `ModelUnsupported` when the file is damaged or its architecture is not served."""
    header = read_gguf_header(path)
    keys = _Keys(path, header)
    hidden_size, num_heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    types = _elements_by_type(header)
    return ModelInfo(
        path=path,
        weight_format="gguf",
        architecture=keys.architecture,
        vocab_size=header.tensors["token_embd.weight"].shape[0],
        hidden_size=hidden_size,
        intermediate_size=keys.integer("feed_forward_length"),
        num_layers=keys.integer("block_count"),
        num_heads=num_heads,
        num_kv_heads=keys.optional("attention.head_count_kv", num_heads),
        head_dim=keys.optional("attention.key_length", hidden_size // num_heads),
        max_positions=_max_positions(keys),
        rms_norm_eps=float(keys.optional("attention.layer_norm_rms_epsilon", 1e-5)),
        rope_theta=float(keys.optional("rope.freq_base", 10_000.0)),
        rope_scaling=_scaling(keys),
        tie_word_embeddings="output.weight" not in header.tensors,
        qkv_bias="blk.0.attn_q.bias" in header.tensors,
        output_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_up.bias" in header.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in header.tensors,
        bos_token_id=keys.tokenizer("bos_token_id"),
        eos_token_ids=frozenset(i for key in _END_KEYS if (i := keys.tokenizer(key)) is not None),
        dtype=_dtype(types),
        quantization=_quantization(types),
    )


class _Keys:
    """Looks metadata up under the architecture's name."""

    def __init__(self, path: Path, header: GGUFHeader) -> None:
        self.path = path
        self._metadata = header.metadata
        self.architecture = str(self._metadata.get("general.architecture"))
        if self.architecture not in _ARCHITECTURES:
            served = ", ".join(_ARCHITECTURES)
            raise ModelUnsupported(f"{path}: architecture {self.architecture!r} is not served in GGUF; {served} are")
        if int(self._metadata.get("split.count", 1)) > 1:
            raise ModelUnsupported(f"{path} is one of {self._metadata['split.count']} parts; merge them into one file")
        if "token_embd.weight" not in header.tensors:
            raise ModelUnsupported(f"{path} holds no token_embd.weight: it is a vocabulary or an adapter, not a model")
        if any(name.endswith("ffn_gate_inp.weight") for name in header.tensors):
            raise ModelUnsupported(f"{path}: mixtures of experts are not served")

    def integer(self, key: str) -> int:
        value = self.optional(key, None)
        if not isinstance(value, int) or value <= 0:
            name = f"{self.architecture}.{key}"
            raise ModelUnsupported(f"{self.path}: {name} is {value!r}; one positive number is needed")
        return value

    def optional(self, key: str, default: Any) -> Any:  # noqa: ANN401  metadata is untyped
        return self._metadata.get(f"{self.architecture}.{key}", default)

    def tokenizer(self, key: str) -> int | None:
        value = self._metadata.get(f"tokenizer.ggml.{key}")
        return int(value) if value is not None else None


def _max_positions(keys: _Keys) -> int:
    """Full attention equals sliding-window attention up to the window's length, so that is as far as we go."""
    positions = keys.integer("context_length")
    window = keys.optional("attention.sliding_window", 0)
    return min(positions, int(window)) if window else positions


def _scaling(keys: _Keys) -> RopeScaling | None:
    """Llama 3's scaling is not among these keys: its file has the factors ready made, as the tensor rope_freqs."""
    kind = keys.optional("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return RopeScaling("linear", float(keys.optional("rope.scaling.factor", 1.0)))
    raise ModelUnsupported(f"{keys.path}: rope scaling {kind!r} is not served; none and linear are")


def _elements_by_type(header: GGUFHeader) -> Counter[int]:
    """How many weights the matrices hold in each ggml type; vectors are always kept plain and say nothing."""
    counts: Counter[int] = Counter()
    for tensor in header.tensors.values():
        if len(tensor.shape) > 1:
            counts[tensor.ggml_type] += prod(tensor.shape)
    return counts


def _dtype(types: Counter[int]) -> str:
    """What the weights are decoded to on a GPU; bfloat16 where they are quantised, for its range."""
    most_common = types.most_common(1)[0][0]
    return _PLAIN_DTYPES.get(most_common, "bfloat16")


def _quantization(types: Counter[int]) -> str | None:
    import gguf  # noqa: PLC0415  half a second of import that only GGUF files need

    most_common = types.most_common(1)[0][0]
    if most_common in _PLAIN_DTYPES:
        return None
    known: dict[int, str] = {int(kind): kind.name for kind in gguf.GGMLQuantizationType}
    return known.get(most_common, f"type {most_common}")

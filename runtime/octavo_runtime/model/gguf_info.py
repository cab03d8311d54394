"""A GGUF file's metadata as a `ModelInfo`. Key names: ggml's docs/gguf.md."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.decoder_config import cache_shapes, read_decoder
from octavo_runtime.model.families import FAMILY_OF_NAME
from octavo_runtime.model.gguf_header import GGUFHeader, read_gguf_header
from octavo_runtime.model.spec import ModelInfo

if TYPE_CHECKING:
    from pathlib import Path

    from octavo_runtime.model.families import Family
    from octavo_runtime.model.spec import DecoderSpec

# Architecture in the file -> our family. Mistral's files say llama, and Mixtral's too.
_FAMILIES: Final = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3_moe",
    "gemma": "gemma",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
}
_LAYERS_OF_27B: Final = {"gemma2": 46, "gemma3": 62}
_PLAIN_DTYPES: Final = {0: "float32", 1: "float16", 30: "bfloat16"}  # ggml type -> dtype
_END_KEYS: Final = ("eos_token_id", "eot_token_id", "eom_token_id")


def read_gguf_info(path: Path) -> ModelInfo:
    """Raises `ModelUnsupported` when the file is damaged or its architecture is not served."""
    header = read_gguf_header(path)
    keys = _Keys(path, header)
    types = _elements_by_type(header)
    family = _family(keys, header)
    decoder = _decoder(keys, header, family)
    return ModelInfo(
        path=path,
        weight_format="gguf",
        architecture=family.name,
        vocab_size=header.tensors["token_embd.weight"].shape[0],
        max_positions=keys.integer("context_length"),
        bos_token_id=keys.tokenizer("bos_token_id"),
        eos_token_ids=frozenset(i for key in _END_KEYS if (i := keys.tokenizer(key)) is not None),
        dtype=_dtype(types),
        quantization=_quantization(types),
        cache_shapes=cache_shapes(decoder),
        decoder=decoder,
    )


def _decoder(keys: _Keys, header: GGUFHeader, family: Family) -> DecoderSpec:
    """The config.json that the file was converted from, read as one. What the tensors show is not asked of the keys.

    Gemma's norms are stored with their 1, so nothing is added.
    """
    decoder = read_decoder(keys.path, family, _config(keys, header))
    return replace(
        decoder,
        norm_offset=0.0,
        qkv_bias="blk.0.attn_q.bias" in header.tensors,
        output_bias="blk.0.attn_output.bias" in header.tensors,
        mlp_bias="blk.0.ffn_up.bias" in header.tensors,
        qk_norm="head" if "blk.0.attn_q_norm.weight" in header.tensors else None,
    )


def _config(keys: _Keys, header: GGUFHeader) -> dict[str, Any]:
    hidden_size, num_heads = keys.integer("embedding_length"), keys.integer("attention.head_count")
    head_dim = keys.optional("attention.key_length", hidden_size // num_heads)
    return {
        "hidden_size": hidden_size,
        "num_hidden_layers": keys.integer("block_count"),
        "num_attention_heads": num_heads,
        "num_key_value_heads": keys.optional("attention.head_count_kv", num_heads),
        "head_dim": head_dim,
        "intermediate_size": keys.integer("feed_forward_length"),
        "rms_norm_eps": keys.optional("attention.layer_norm_rms_epsilon", 1e-5),
        "rope_theta": keys.optional("rope.freq_base", 10_000.0),
        "rope_scaling": _scaling(keys),
        "tie_word_embeddings": "output.weight" not in header.tensors,
        "sliding_window": keys.optional("attention.sliding_window", None),
        "attn_logit_softcapping": keys.optional("attn_logit_softcapping", None),
        "final_logit_softcapping": keys.optional("final_logit_softcapping", None),
        "query_pre_attn_scalar": _query_scalar(keys, head_dim, hidden_size // num_heads),
        "num_local_experts": keys.optional("expert_count", None),
        "num_experts_per_tok": keys.optional("expert_used_count", None),
        "moe_intermediate_size": keys.optional("expert_feed_forward_length", None),
        "norm_topk_prob": True,  # llama.cpp's build_moe_ffn does it for Mixtral and Qwen3-MoE, whatever the file says
    }


def _query_scalar(keys: _Keys, head_dim: int, width: int) -> int:
    """What Gemma's scores are divided by the root of: a head's size, but in the 27B models the share of a head in the
    hidden size. No key says so; llama.cpp tells them by their number of layers, too (llama-model.cpp).
    """
    return width if keys.integer("block_count") == _LAYERS_OF_27B.get(keys.architecture) else head_dim


class _Keys:
    """Looks metadata up under the architecture's name."""

    def __init__(self, path: Path, header: GGUFHeader) -> None:
        self.path = path
        self._metadata = header.metadata
        self.architecture = str(self._metadata.get("general.architecture"))
        if self.architecture not in _FAMILIES:
            served = ", ".join(_FAMILIES)
            raise ModelUnsupported(f"{path}: architecture {self.architecture!r} is not served in GGUF; {served} are")
        if int(self._metadata.get("split.count", 1)) > 1:
            raise ModelUnsupported(f"{path} is one of {self._metadata['split.count']} parts; merge them into one file")
        if "token_embd.weight" not in header.tensors:
            raise ModelUnsupported(f"{path} holds no token_embd.weight: it is a vocabulary or an adapter, not a model")

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


def _family(keys: _Keys, header: GGUFHeader) -> Family:
    name = _FAMILIES[keys.architecture]
    if name == "llama" and "blk.0.ffn_gate_inp.weight" in header.tensors:
        name = "mixtral"
    elif name == "llama" and keys.optional("attention.sliding_window", 0):
        name = "mistral"
    return FAMILY_OF_NAME[name]


def _scaling(keys: _Keys) -> dict[str, Any] | None:
    """Llama 3's scaling is not among these keys: its file has the factors ready made, as the tensor rope_freqs."""
    kind = keys.optional("rope.scaling.type", "none")
    if kind == "none":
        return None
    if kind == "linear":
        return {"rope_type": "linear", "factor": keys.optional("rope.scaling.factor", 1.0)}
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

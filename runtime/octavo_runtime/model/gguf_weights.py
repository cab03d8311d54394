"""Weights of a GGUF file, decoded to fp32 tensor by tensor and given transformers' names and layouts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

import gguf
import numpy as np
import torch

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.families import FAMILY_OF_NAME
from octavo_runtime.model.gguf_header import read_gguf_header

if TYPE_CHECKING:
    from collections.abc import Iterator
    from collections.abc import Set as AbstractSet

    from torch import Tensor

    from octavo_runtime.model.families import LayerNames
    from octavo_runtime.model.gguf_header import GGUFHeader, GGUFTensor
    from octavo_runtime.model.shard import Cut
    from octavo_runtime.model.spec import DecoderSpec, ModelInfo

_TOP: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "rope_factors",
}
_PERMUTED: Final = ("llama", "mistral", "mixtral")  # families whose query and key rows llama.cpp's converter reorders


class GGUFWeights:
    """Implements `WeightSource`."""

    def __init__(self, info: ModelInfo, spec: DecoderSpec) -> None:
        self._info = info
        self._spec = spec
        self._data = np.memmap(info.path, mode="r")
        self._parts = dict(_parts(read_gguf_header(info.path), FAMILY_OF_NAME[info.architecture].names))

    @property
    def names(self) -> AbstractSet[str]:
        return self._parts.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        part = self._parts[name]
        return part.tensor.shape if part.expert is None else part.tensor.shape[1:]

    def load(self, name: str, cut: Cut | None = None) -> Tensor:
        """Raises `ModelUnsupported` for a type that the `gguf` package cannot decode, or a file that ends too early.

        What is cut is decoded as a whole first: rows that are reordered lie all over a head, and blocks of quantised
        numbers may lie across a cut.
        """
        weight = self._load_whole(name)
        return weight if cut is None else torch.cat(list(cut.pieces(weight)))

    def _load_whole(self, name: str) -> Tensor:
        weight = torch.from_numpy(self._decode(self._parts[name]))
        if self._info.architecture in _PERMUTED and name.endswith(("q_proj.weight", "q_proj.bias")):
            return unpermute(weight, self._spec.num_heads)
        if self._info.architecture in _PERMUTED and name.endswith(("k_proj.weight", "k_proj.bias")):
            return unpermute(weight, self._spec.num_kv_heads)
        return weight

    def _decode(self, part: _Part) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        tensor = part.tensor
        try:
            kind = gguf.GGMLQuantizationType(tensor.ggml_type)
            shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
            raw = self._data[tensor.offset : tensor.offset + math.prod(shape)].reshape(shape)
            decoded = gguf.dequantize(raw if part.expert is None else raw[part.expert], kind)
        except (NotImplementedError, ValueError) as error:
            raise ModelUnsupported(f"{self._info.path}: {tensor.name} cannot be decoded: {error}") from error
        return np.require(decoded, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])  # plain F32 comes as a view of the file


class _Part(NamedTuple):
    tensor: GGUFTensor
    expert: int | None = None  # which of the matrices that one tensor stacks


def _parts(header: GGUFHeader, names: LayerNames) -> Iterator[tuple[str, _Part]]:
    """Every weight by its name in transformers; a name that is not known stays as it is, for the loader to refuse."""
    in_layer, in_expert = _in_layer(names), _in_expert(names)
    for name, tensor in header.tensors.items():
        match name.split("."):
            case ["blk", layer, kind, suffix] if kind in in_layer:
                yield f"model.layers.{layer}.{in_layer[kind]}.{suffix}", _Part(tensor)
            case ["blk", layer, kind, suffix] if kind in in_expert:
                for expert in range(tensor.shape[0]):
                    place = names.expert.format(expert) + in_expert[kind]
                    yield f"model.layers.{layer}.{place}.{suffix}", _Part(tensor, expert)
            case [kind, suffix] if kind in _TOP:
                yield f"{_TOP[kind]}.{suffix}", _Part(tensor)
            case _:
                yield name, _Part(tensor)


def _in_layer(names: LayerNames) -> dict[str, str]:
    query, key, value = names.qkv
    gate, up = names.gate_up
    known = {
        "attn_norm": names.attention_norm,
        "attn_q": query,
        "attn_k": key,
        "attn_v": value,
        "attn_q_norm": names.query_norm,
        "attn_k_norm": names.key_norm,
        "attn_output": names.output,
        "post_attention_norm": names.attention_post_norm,
        "ffn_norm": names.mlp_norm,
        "ffn_gate": gate,
        "ffn_up": up,
        "ffn_down": names.down,
        "ffn_gate_inp": names.router,
        "post_ffw_norm": names.mlp_post_norm,
    }
    return {ours: theirs for ours, theirs in known.items() if theirs is not None}


def _in_expert(names: LayerNames) -> dict[str, str]:
    gate, up = names.expert_gate_up
    return {"ffn_gate_exps": gate, "ffn_up_exps": up, "ffn_down_exps": names.expert_down}


def unpermute(weight: Tensor, num_heads: int) -> Tensor:
    """Undo llama.cpp's row order for the Llama architecture, which rotates neighbours (2i, 2i + 1).

        in the file, per head     0  D/2  1  D/2+1  2 …
        here                      0  1  2 …  D/2  D/2+1 …

    llama.cpp's convert_hf_to_gguf.py, `LlamaModel.permute`, read backwards.
    """
    rows, *columns = weight.shape
    return weight.view(num_heads, rows // num_heads // 2, 2, *columns).transpose(1, 2).reshape(weight.shape)

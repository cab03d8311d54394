"""Weights of a GGUF file, decoded to fp32 tensor by tensor and given transformers' names and layouts."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import gguf
import numpy as np
import torch

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.gguf_header import read_gguf_header

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from torch import Tensor

    from octavo_runtime.model.gguf_header import GGUFTensor
    from octavo_runtime.model.spec import ModelInfo

_TOP: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "rope_freqs": "rope_factors",
}
_IN_LAYER: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


class GGUFWeights:
    """Implements `WeightSource`."""

    def __init__(self, info: ModelInfo) -> None:
        self._info = info
        self._data = np.memmap(info.path, mode="r")
        self._tensors = {_rename(name): tensor for name, tensor in read_gguf_header(info.path).tensors.items()}

    @property
    def names(self) -> AbstractSet[str]:
        return self._tensors.keys()

    def load(self, name: str) -> Tensor:
        """Raises `ModelUnsupported` for a type that the `gguf` package cannot decode, or a file that ends too early."""
        weight = torch.from_numpy(self._decode(self._tensors[name]))
        if self._info.architecture == "llama" and name.endswith(("q_proj.weight", "q_proj.bias")):
            return unpermute(weight, self._info.num_heads)
        if self._info.architecture == "llama" and name.endswith(("k_proj.weight", "k_proj.bias")):
            return unpermute(weight, self._info.num_kv_heads)
        return weight

    def _decode(self, tensor: GGUFTensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
        try:
            kind = gguf.GGMLQuantizationType(tensor.ggml_type)
            shape = gguf.quant_shape_to_byte_shape(tensor.shape, kind)
            raw = self._data[tensor.offset : tensor.offset + math.prod(shape)]
            decoded = gguf.dequantize(raw.reshape(shape), kind)
        except (NotImplementedError, ValueError) as error:
            raise ModelUnsupported(f"{self._info.path}: {tensor.name} cannot be decoded: {error}") from error
        return np.require(decoded, np.float32, ["C_CONTIGUOUS", "WRITEABLE"])  # plain F32 comes as a view of the file


def _rename(name: str) -> str:
    """`blk.3.attn_q.weight` to `model.layers.3.self_attn.q_proj.weight`; a name that is not known stays as it is."""
    parts = name.split(".")
    if parts[0] == "blk" and len(parts) == 4 and parts[2] in _IN_LAYER:
        return f"model.layers.{parts[1]}.{_IN_LAYER[parts[2]]}.{parts[3]}"
    if parts[0] in _TOP and len(parts) == 2:
        return f"{_TOP[parts[0]]}.{parts[1]}"
    return name


def unpermute(weight: Tensor, num_heads: int) -> Tensor:
    """Undo llama.cpp's row order for the Llama architecture, which rotates neighbours (2i, 2i + 1).

        in the file, per head     0  D/2  1  D/2+1  2 …
        here                      0  1  2 …  D/2  D/2+1 …

    llama.cpp's convert_hf_to_gguf.py, `LlamaModel.permute`, read backwards.
    """
    rows, *columns = weight.shape
    return weight.view(num_heads, rows // num_heads // 2, 2, *columns).transpose(1, 2).reshape(weight.shape)

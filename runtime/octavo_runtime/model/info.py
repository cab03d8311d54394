"""What a model is, read from its configuration without loading a weight or importing torch.

Two sources, one result: a Hugging Face folder (`config.json`, `*.safetensors`), read here, or a GGUF file, read by
gguf_info.py. Whatever is not understood is refused by name, before minutes are spent on weights.
"""

from __future__ import annotations

import errno
import json
import os
from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.errors import ModelAccessDenied, ModelNotFound, ModelUnsupported
from octavo_runtime.model.decoder_config import Needed, cache_shapes, read_decoder
from octavo_runtime.model.families import FAMILIES
from octavo_runtime.model.gguf_info import read_gguf_info
from octavo_runtime.model.spec import CacheShape, ModelInfo

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ModelInfo", "check_config", "read_model_info"]

# A number's names among the architectures of transformers.
_POSITION_KEYS: Final = ("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "seq_length")
_HIDDEN_KEYS: Final = ("hidden_size", "n_embd", "d_model", "dim")
_HEAD_KEYS: Final = ("num_attention_heads", "n_head", "num_heads", "n_heads", "decoder_attention_heads")
_LAYER_KEYS: Final = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "decoder_layers")
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_READ: Final = ("*.json", "*.safetensors")
_DTYPES: Final = ("float32", "bfloat16", "float16")


def read_model_info(path: Path, *, weights: bool = True) -> ModelInfo:
    """Read the configuration of the model at `path`: a Hugging Face folder, a GGUF file, or a folder with one of these.

    Without `weights` a config.json alone is enough.
    Raises `ModelNotFound` when the path is missing or holds no weights, `ModelAccessDenied` when we may not read it,
    and `ModelUnsupported` when the architecture, the weights' format or their quantisation is not served.
    """
    try:
        return _read(path, weights=weights)
    except PermissionError as error:
        raise ModelAccessDenied(f"{error.filename} may not be read by user {os.geteuid()}, whom we run as") from error


def _read(path: Path, *, weights: bool) -> ModelInfo:
    if not path.exists():
        raise ModelNotFound(f"{path} does not exist")
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelUnsupported(f"{path} is neither a folder nor a .gguf file")
        return read_gguf_info(path)
    if (path / "config.json").is_file():
        if weights:
            _require_safetensors(path)
            _require_readable(path)
        return _info_of_config(path, _read_json(path / "config.json"), _read_generation_config(path))
    return read_gguf_info(_only_gguf(path))


def check_config(file: Path, where: str) -> None:
    """Raise `ModelUnsupported` when a `config.json` alone, of the model at `where`, says that it is not served."""
    _refuse_unserved(where, _read_json(file))


def _only_gguf(folder: Path) -> Path:
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise ModelNotFound(f"{folder} holds neither a config.json nor a .gguf file")
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise ModelUnsupported(f"{folder} holds {len(files)} GGUF files ({names}); name one of them")
    return files[0]


def _require_safetensors(folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise ModelUnsupported(
            f"{folder} has its weights as Python pickles ({', '.join(pickles)}), which can run code when they are "
            "loaded; convert them to safetensors"
        )
    raise ModelNotFound(f"{folder} has a config.json but no *.safetensors weights")


def _require_readable(folder: Path) -> None:
    """Libraries that open these later call a file that is somebody else's a broken one."""
    for pattern in _READ:
        for file in sorted(folder.glob(pattern)):
            if not os.access(file, os.R_OK, effective_ids=True):
                raise PermissionError(errno.EACCES, "may not be read", str(file))


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnsupported(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelUnsupported(f"{file} is not a JSON object")
    return content


def _read_generation_config(folder: Path) -> dict[str, Any]:
    file = folder / "generation_config.json"
    return _read_json(file) if file.is_file() else {}


def _info_of_config(path: Path, config: dict[str, Any], generation: dict[str, Any]) -> ModelInfo:
    _refuse_unserved(path, config)
    architecture = _architecture(path, config)
    need = Needed(path, config)
    family = FAMILIES.get(architecture)
    decoder = None if family is None else read_decoder(path, family, config)
    return ModelInfo(
        path=path,
        weight_format="safetensors",
        architecture=architecture if family is None else family.name,
        vocab_size=need.integer("vocab_size"),
        max_positions=_max_positions(config, need.integer(*_POSITION_KEYS), own=decoder is not None),
        bos_token_id=_first(config.get("bos_token_id")),
        eos_token_ids=_ids(config.get("eos_token_id")) | _ids(generation.get("eos_token_id")),
        dtype=_dtype(path, config),
        quantization=None,
        cache_shapes=cache_shapes(decoder) if decoder else _expected_cache(need),
        decoder=decoder,
    )


def _max_positions(config: dict[str, Any], positions: int, *, own: bool) -> int:
    """As configured, but with LongRoPE on transformers' path only up to its original length.

    As soon as one sequence is longer, that code rotates otherwise, and its neighbours in the batch with it.
    """
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = parameters.get("rope_type", parameters.get("type"))
    original = parameters.get("original_max_position_embeddings", config.get("original_max_position_embeddings"))
    return min(positions, int(original)) if kind == "longrope" and original and not own else positions


def _architecture(path: Path, config: dict[str, Any]) -> str:
    """The class that the weights were saved from: one of ours if there is one, else the first named."""
    names = config.get("architectures") or []
    if not names:
        raise ModelUnsupported(f"{path}: config.json names no architectures")
    return next((name for name in names if name in FAMILIES), str(names[0]))


def _refuse_unserved(where: Path | str, config: dict[str, Any]) -> None:
    if "auto_map" in config:
        raise ModelUnsupported(f"{where}: config.json asks for code of its own (auto_map), which is never run")
    if (quantization := config.get("quantization_config")) is not None:
        method = quantization.get("quant_method", quantization) if isinstance(quantization, dict) else quantization
        raise ModelUnsupported(
            f"{where}: quantisation {method!r} is not served in safetensors; plain weights and GGUF are"
        )
    if config.get("is_encoder_decoder"):
        raise ModelUnsupported(f"{where}: {config.get('architectures')} has an encoder; decoder-only models are served")
    if "vocab_size" not in config and isinstance(config.get("text_config"), dict):
        raise ModelUnsupported(f"{where}: {config.get('architectures')} takes more than text; text models are served")


def _expected_cache(need: Needed) -> tuple[CacheShape, ...]:
    """What most decoders would put into the cache; transformers' path measures it once the model is built."""
    num_heads = need.integer(*_HEAD_KEYS)
    shape = CacheShape(
        need.optional("num_key_value_heads") or num_heads,
        need.optional("head_dim") or need.integer(*_HIDDEN_KEYS) // num_heads,
    )
    return (shape,) * need.integer(*_LAYER_KEYS)


def _ids(value: int | list[int] | None) -> frozenset[int]:
    if value is None:
        return frozenset()
    return frozenset([value] if isinstance(value, int) else value)


def _first(value: int | list[int] | None) -> int | None:
    return value[0] if isinstance(value, list) else value


def _dtype(path: Path, config: dict[str, Any]) -> str:
    dtype = str(config.get("dtype", config.get("torch_dtype")) or "float32")
    if dtype not in _DTYPES:
        raise ModelUnsupported(f"{path}: dtype {dtype!r} is not served; {', '.join(_DTYPES)} are")
    return dtype

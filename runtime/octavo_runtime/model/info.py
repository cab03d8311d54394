"""What a model is, read from its configuration without loading a weight or importing torch.

Two sources, one result: a Hugging Face folder (`config.json`, `*.safetensors`), read here, or a GGUF file, read by
gguf_info.py. Whatever is not understood is refused by name, before minutes are spent on weights.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.errors import ModelNotFound, ModelUnsupported
from octavo_runtime.model.gguf_info import read_gguf_info
from octavo_runtime.model.spec import ModelInfo, RopeScaling

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ModelInfo", "RopeScaling", "read_model_info"]

_ARCHITECTURES: Final = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "mistral",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
}
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES: Final = ("float32", "bfloat16", "float16")


def read_model_info(path: Path) -> ModelInfo:
    """Read the configuration of the model at `path`: a Hugging Face folder, a GGUF file, or a folder with one of these.

    Raises `ModelNotFound` when the path is missing or holds no weights, and `ModelUnsupported` when the architecture,
    the weights' format or their quantisation is not served.
    """
    if not path.exists():
        raise ModelNotFound(f"{path} does not exist")
    if path.is_file():
        if path.suffix != ".gguf":
            raise ModelUnsupported(f"{path} is neither a folder nor a .gguf file")
        return read_gguf_info(path)
    if (path / "config.json").is_file():
        _require_safetensors(path)
        return _info_of_config(path, _read_json(path / "config.json"), _read_generation_config(path))
    return read_gguf_info(_only_gguf(path))


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
    architecture = _architecture(path, config)
    _refuse_unserved(path, config, architecture)
    need = _Needed(path, config)
    num_heads = need.integer("num_attention_heads")
    hidden_size = need.integer("hidden_size")
    theta, scaling = _rope(path, config)
    bias = bool(config.get("attention_bias", False))
    return ModelInfo(
        path=path,
        weight_format="safetensors",
        architecture=architecture,
        vocab_size=need.integer("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=need.integer("intermediate_size"),
        num_layers=need.integer("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=config.get("num_key_value_heads") or num_heads,
        head_dim=config.get("head_dim") or hidden_size // num_heads,
        max_positions=_max_positions(need.integer("max_position_embeddings"), config),
        rms_norm_eps=float(config.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        qkv_bias=architecture == "qwen2" or bias,
        output_bias=bias,
        mlp_bias=bool(config.get("mlp_bias", False)),
        qk_norm=architecture == "qwen3",
        bos_token_id=_first(config.get("bos_token_id")),
        eos_token_ids=_ids(config.get("eos_token_id")) | _ids(generation.get("eos_token_id")),
        dtype=_dtype(path, config),
        quantization=None,
    )


def _architecture(path: Path, config: dict[str, Any]) -> str:
    names = config.get("architectures") or []
    for name in names:
        if name in _ARCHITECTURES:
            return _ARCHITECTURES[name]
    raise ModelUnsupported(f"{path}: architecture {names} is not served; these are: {', '.join(_ARCHITECTURES)}")


def _refuse_unserved(path: Path, config: dict[str, Any], architecture: str) -> None:
    if "auto_map" in config:
        raise ModelUnsupported(f"{path}: config.json asks for code of its own (auto_map), which is never run")
    if (quantization := config.get("quantization_config")) is not None:
        method = quantization.get("quant_method", quantization) if isinstance(quantization, dict) else quantization
        raise ModelUnsupported(
            f"{path}: quantisation {method!r} is not served in safetensors; plain weights and GGUF are"
        )
    if config.get("hidden_act", "silu") != "silu":
        raise ModelUnsupported(f"{path}: hidden_act {config['hidden_act']!r} is not served for {architecture}; silu is")


class _Needed:
    """Reads the numbers that a configuration cannot do without."""

    def __init__(self, path: Path, config: dict[str, Any]) -> None:
        self._path = path
        self._config = config

    def integer(self, key: str) -> int:
        value = self._config.get(key)
        if not isinstance(value, int) or value <= 0:
            raise ModelUnsupported(f"{self._path}: config.json has {key} = {value!r}; a positive number is needed")
        return value


def _max_positions(positions: int, config: dict[str, Any]) -> int:
    """Full attention equals sliding-window attention up to the window's length, so that is as far as we go."""
    window: int | None = config.get("sliding_window")
    return min(positions, window) if window and config.get("use_sliding_window", True) else positions


def _rope(path: Path, config: dict[str, Any]) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling` (before)."""
    parameters = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(parameters.get("rope_theta", config.get("rope_theta", 10_000.0)))
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind == "default":
        return theta, None
    return theta, _scaling(path, kind, parameters)


def _scaling(path: Path, kind: str, parameters: dict[str, Any]) -> RopeScaling:
    try:
        if kind == "linear":
            return RopeScaling("linear", float(parameters["factor"]))
        if kind == "llama3":
            return RopeScaling(
                "llama3",
                factor=float(parameters["factor"]),
                low_freq_factor=float(parameters["low_freq_factor"]),
                high_freq_factor=float(parameters["high_freq_factor"]),
                original_max_positions=int(parameters["original_max_position_embeddings"]),
            )
    except KeyError as error:
        raise ModelUnsupported(f"{path}: rope scaling {kind!r} without {error}") from error
    raise ModelUnsupported(f"{path}: rope scaling {kind!r} is not served; default, linear and llama3 are")


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

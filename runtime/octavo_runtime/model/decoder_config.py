"""From a config.json of a known family to our decoder's switches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.rope_config import read_ropes
from octavo_runtime.model.spec import CacheShape, DecoderSpec, LayerSpec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from octavo_runtime.model.families import Family
    from octavo_runtime.model.spec import Activation

_ACTIVATIONS: Final[Mapping[str, Activation]] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}
# Switches that some files of these families set and the decoder does not have, with the values that change nothing.
_UNSERVED: Final = {"clip_qkv": (None,), "use_bidirectional_attention": (None, False)}


class Needed:
    """Reads numbers that a configuration cannot do without."""

    def __init__(self, path: Path, config: Mapping[str, Any]) -> None:
        self._path = path
        self._config = config

    def integer(self, *keys: str) -> int:
        """The first of `keys` that is there, a positive number."""
        key = next((key for key in keys if self._config.get(key) is not None), keys[0])
        value = self._config.get(key)
        if not isinstance(value, int) or value <= 0:
            others = f" (nor {', '.join(keys[1:])})" if value is None and len(keys) > 1 else ""
            raise ModelUnsupported(
                f"{self._path}: config.json has {key} = {value!r}{others}; a positive number is needed"
            )
        return value

    def optional(self, key: str) -> int | None:
        return None if self._config.get(key) is None else self.integer(key)


def read_decoder(path: Path, family: Family, config: Mapping[str, Any]) -> DecoderSpec:
    """Raises `ModelUnsupported` naming the field that is missing or asks for what the decoder cannot do."""
    config = {**family.defaults, **config}
    try:
        return _read(path, family, config)
    except KeyError as error:
        raise ModelUnsupported(f"{path}: config.json lacks {error}, which {family.name} needs") from error
    except ModelUnsupported as error:
        prefix = "" if str(path) in str(error) else f"{path}: "
        raise ModelUnsupported(f"{prefix}{error}") from error


def _read(path: Path, family: Family, config: Mapping[str, Any]) -> DecoderSpec:
    need = Needed(path, config)
    _refuse_unserved(family, config)
    num_heads, hidden_size = need.integer("num_attention_heads"), need.integer("hidden_size")
    head_dim = need.optional("head_dim") or hidden_size // num_heads
    num_layers = need.integer("num_hidden_layers")
    common: dict[str, Any] = {
        "hidden_size": hidden_size,
        "intermediate_size": need.integer("intermediate_size"),
        "num_heads": num_heads,
        "num_kv_heads": need.optional("num_key_value_heads") or num_heads,
        "head_dim": head_dim,
        "layers": (LayerSpec(),) * num_layers,
        "ropes": read_ropes(config, head_dim, family.sliding_theta),
        "rms_norm_eps": float(config.get("rms_norm_eps", 1e-6)),
        "tie_word_embeddings": bool(config.get("tie_word_embeddings", False)),
        "attention_scale": head_dim**-0.5,
        "activation": _activation(family, config),
    }
    return DecoderSpec(**{**common, **family.switches(config)})


def cache_shapes(spec: DecoderSpec) -> tuple[CacheShape, ...]:
    return (CacheShape(spec.num_kv_heads, spec.head_dim),) * len(spec.layers)


def _activation(family: Family, config: Mapping[str, Any]) -> Activation:
    name = config.get("hidden_activation") or config.get("hidden_act", "silu")
    if name not in _ACTIVATIONS:
        raise ModelUnsupported(f"hidden_act {name!r} is not served for {family.name}; {', '.join(_ACTIVATIONS)} are")
    return _ACTIVATIONS[name]


def _refuse_unserved(family: Family, config: Mapping[str, Any]) -> None:
    for key, neutral in _UNSERVED.items():
        if config.get(key) not in neutral:
            raise ModelUnsupported(f"{key} = {config[key]!r} is not served for {family.name}")
    if set(config.get("layer_types") or ()) - {"full_attention", "sliding_attention"}:
        raise ModelUnsupported(f"layer_types {sorted(set(config['layer_types']))} are not served for {family.name}")

"""Rotary embeddings as config.json has them: `rope_parameters` (transformers 5), or `rope_theta` and `rope_scaling`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Final

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.spec import LinearScaling, Llama3Scaling, LongScaling, Rope, RopeScaling, YarnScaling

Config = Mapping[str, Any]

_BY_LAYER_TYPE: Final = ("full_attention", "sliding_attention")


def read_ropes(config: Config, head_dim: int, sliding_theta: float | None) -> tuple[Rope, ...]:
    """The ropes of the model: one, or with a `sliding_theta` that of full layers and that of sliding layers.

    Raises `ModelUnsupported` for a scaling that is not known, or that lacks a number.
    """
    parameters: Config = config.get("rope_parameters") or config.get("rope_scaling") or {}
    by_type: dict[str, Config] = {kind: parameters[kind] for kind in _BY_LAYER_TYPE if parameters.get(kind)}
    if sliding_theta is None:
        if by_type:
            raise ModelUnsupported("rope_parameters differ by layer type, which this architecture is not known to do")
        return (_rope(config, parameters, head_dim),)
    full = by_type.get("full_attention", parameters)
    sliding = by_type.get("sliding_attention") or {"rope_theta": config.get("rope_local_base_freq") or sliding_theta}
    return _rope(config, full, head_dim), _rope(config, sliding, head_dim)


def _rope(config: Config, parameters: Config, head_dim: int) -> Rope:
    theta = float(parameters.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    part = float(parameters.get("partial_rotary_factor") or config.get("partial_rotary_factor") or 1.0)
    kind = parameters.get("rope_type", parameters.get("type", "default"))
    if kind not in _SCALINGS:
        raise ModelUnsupported(f"rope scaling {kind!r} is not served; {', '.join(_SCALINGS)} are")
    try:
        return Rope(theta, int(head_dim * part), _SCALINGS[kind](config, parameters))
    except (KeyError, TypeError) as error:
        raise ModelUnsupported(f"rope scaling {kind!r} without {error}") from error


def _none(_config: Config, _parameters: Config) -> None:
    return None


def _linear(_config: Config, parameters: Config) -> LinearScaling:
    return LinearScaling(float(parameters["factor"]))


def _llama3(_config: Config, parameters: Config) -> Llama3Scaling:
    return Llama3Scaling(
        factor=float(parameters["factor"]),
        low_freq_factor=float(parameters["low_freq_factor"]),
        high_freq_factor=float(parameters["high_freq_factor"]),
        original_max_positions=int(parameters["original_max_position_embeddings"]),
    )


def _yarn(config: Config, parameters: Config) -> YarnScaling:
    original = _original_max_positions(config, parameters)
    factor = float(parameters.get("factor") or config["max_position_embeddings"] / original)
    amplitude = parameters.get("attention_factor")
    return YarnScaling(
        factor=factor,
        beta_fast=float(parameters.get("beta_fast") or 32),
        beta_slow=float(parameters.get("beta_slow") or 1),
        whole_dimensions=bool(parameters.get("truncate", True)),
        original_max_positions=original,
        amplitude=_yarn_amplitude(factor, parameters) if amplitude is None else float(amplitude),
    )


def _yarn_amplitude(factor: float, parameters: Config) -> float:
    def grown(scale: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

    over, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
    return grown(float(over)) / grown(float(under)) if over and under else grown(1.0)


def _long(config: Config, parameters: Config) -> LongScaling:
    original = _original_max_positions(config, parameters)
    factor = float(parameters.get("factor") or config["max_position_embeddings"] / original)
    amplitude = parameters.get("attention_factor")
    if amplitude is None:
        amplitude = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    return LongScaling(
        short_factors=tuple(map(float, parameters["short_factor"])),
        long_factors=tuple(map(float, parameters["long_factor"])),
        original_max_positions=original,
        amplitude=float(amplitude),
    )


def _original_max_positions(config: Config, parameters: Config) -> int:
    """In the scaling's own place, or beside it (Phi-3); a model that is not stretched names none."""
    for source in (parameters, config):
        if source.get("original_max_position_embeddings"):
            return int(source["original_max_position_embeddings"])
    return int(config["max_position_embeddings"])


# "dynamic" stretches only beyond max_position_embeddings, which is further than a model is served.
_SCALINGS: Final[Mapping[str, Callable[[Config, Config], RopeScaling | None]]] = {
    "default": _none,
    "dynamic": _none,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _long,
    "su": _long,  # what Phi-3's first files called it
}

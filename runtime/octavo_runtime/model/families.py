"""The families that our own decoder serves: each one's defaults, switches and weight names, told from config.json.

A family is a row of `FAMILIES`. What is not said in a row is as in Llama. Sources: transformers' configuration_*.py and
modeling_*.py of the same name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

from octavo_runtime.model.spec import LayerSpec, MixtureSpec

Config = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LayerNames:
    """Names of a layer's weights below `model.layers.N.`; None: there is no such weight."""

    attention_norm: str | None = "input_layernorm"
    attention_post_norm: str | None = None
    mlp_norm: str | None = "post_attention_layernorm"
    mlp_post_norm: str | None = None
    qkv: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    output: str = "self_attn.o_proj"
    query_norm: str = "self_attn.q_norm"
    key_norm: str = "self_attn.k_norm"
    gate_up: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    down: str = "mlp.down_proj"
    router: str = "mlp.gate"
    expert: str = "mlp.experts.{}."  # followed by one of the next two
    expert_gate_up: tuple[str, ...] = ("gate_proj", "up_proj")
    expert_down: str = "down_proj"
    shared_expert: str = "mlp.shared_expert."
    shared_gate: str = "mlp.shared_expert_gate"


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    switches: Callable[[Config], dict[str, Any]]  # fields of DecoderSpec that the config decides, beyond Llama's
    defaults: Config = field(default_factory=dict)  # what config.json may leave out
    names: LayerNames = field(default_factory=LayerNames)
    sliding_theta: float | None = (
        None  # sliding layers have a rope of their own; its theta where config.json names none
    )


def _llama(config: Config) -> dict[str, Any]:
    bias = bool(config.get("attention_bias", False))
    return {"qkv_bias": bias, "output_bias": bias, "mlp_bias": bool(config.get("mlp_bias", False))}


def _mistral(config: Config) -> dict[str, Any]:
    return {"layers": _layers(config, sliding=lambda _: True)}


def _qwen2(config: Config) -> dict[str, Any]:
    return {"qkv_bias": True, "layers": _layers(_switched_window(config), sliding=_after_full(config))}


def _qwen3(config: Config) -> dict[str, Any]:
    return {**_llama(config), "qk_norm": "head", "layers": _layers(_switched_window(config), _after_full(config))}


def _qwen2_moe(config: Config) -> dict[str, Any]:
    def sliding(index: int) -> bool:
        return index % 2 == 0 and index < int(config["max_window_layers"])

    return {
        "qkv_bias": bool(config["qkv_bias"]),
        "layers": _layers(_switched_window(config), sliding, _mixed_layers(config)),
        "mixture": _mixture(config, shared=int(config["shared_expert_intermediate_size"])),
    }


def _qwen3_moe(config: Config) -> dict[str, Any]:
    layers = _layers(_switched_window(config), lambda _: True, _mixed_layers(config))
    return {**_llama(config), "qk_norm": "head", "layers": layers, "mixture": _mixture(config)}


def _mixtral(config: Config) -> dict[str, Any]:
    mixture = MixtureSpec(
        num_experts=int(config["num_local_experts"]),
        experts_per_token=int(config["num_experts_per_tok"]),
        intermediate_size=int(config["intermediate_size"]),
        normalise=True,
    )
    return {"layers": _layers(config, lambda _: True, lambda _: True), "mixture": mixture}


def _olmoe(config: Config) -> dict[str, Any]:
    mixture = _mixture({**config, "moe_intermediate_size": config["intermediate_size"]})
    layers = _layers(config, mixed=lambda _: True)
    return {**_llama(config), "qk_norm": "row", "layers": layers, "mixture": mixture}


def _olmo2(config: Config) -> dict[str, Any]:
    return {**_llama(config), "qk_norm": "row"}


def _olmo3(config: Config) -> dict[str, Any]:
    return {**_olmo2(config), "layers": _layers(config, lambda index: (index + 1) % 4 != 0, sliding_rope=1)}


def _smollm3(config: Config) -> dict[str, Any]:
    interval = int(config["no_rope_layer_interval"])
    rotated = config.get("no_rope_layers") or [
        (index + 1) % interval != 0 for index in range(config["num_hidden_layers"])
    ]  # its name notwithstanding, 1 says that the layer has rope

    def without_rope(index: int) -> bool:
        return not rotated[index]

    layers = _layers(_switched_window(config), without_rope, without_rope=without_rope)
    return {**_llama(config), "layers": layers}


def _granite(config: Config) -> dict[str, Any]:
    return {
        **_llama(config),
        "attention_scale": float(config["attention_multiplier"]),
        "embedding_scale": float(config["embedding_multiplier"]),
        "residual_scale": float(config["residual_multiplier"]),
        "logit_scale": 1 / float(config["logits_scaling"]),
    }


def _seed_oss(config: Config) -> dict[str, Any]:
    return {**_llama(config), "output_bias": bool(config["attention_out_bias"])}


def _gemma(config: Config) -> dict[str, Any]:
    return {**_llama(config), "norm_offset": 1.0, "embedding_scale": float(config["hidden_size"]) ** 0.5}


def _gemma2(config: Config) -> dict[str, Any]:
    return {
        **_gemma(config),
        "layers": _layers(config, sliding=lambda index: index % 2 == 0),
        "attention_scale": float(config["query_pre_attn_scalar"]) ** -0.5,
        "attention_soft_cap": config.get("attn_logit_softcapping"),
        "logit_soft_cap": config.get("final_logit_softcapping"),
    }


def _gemma3(config: Config) -> dict[str, Any]:
    period = int(config["sliding_window_pattern"])
    layers = _layers(config, lambda index: (index + 1) % period != 0, sliding_rope=1)
    return {**_gemma2(config), "qk_norm": "head", "layers": layers}


def _layers(
    config: Config,
    sliding: Callable[[int], bool] = lambda _: False,
    mixed: Callable[[int], bool] = lambda _: False,
    without_rope: Callable[[int], bool] = lambda _: False,
    sliding_rope: int = 0,
) -> tuple[LayerSpec, ...]:
    """One spec per layer. `layer_types` in the config wins over the family's own rule for which layers slide.

    `sliding_rope` is the number of the rope of layers that slide.
    """
    window, types = config.get("sliding_window"), config.get("layer_types")

    def layer(index: int) -> LayerSpec:
        slides = types[index] == "sliding_attention" if types else bool(window) and sliding(index)
        rope = None if without_rope(index) else sliding_rope if slides else 0
        return LayerSpec(window if slides else None, rope, mixed(index))

    return tuple(layer(index) for index in range(int(config["num_hidden_layers"])))


def _switched_window(config: Config) -> Config:
    """Qwen's files name a window that counts only where it is switched on."""
    return (
        config if config.get("use_sliding_window", False) else {**config, "sliding_window": None, "layer_types": None}
    )


def _after_full(config: Config) -> Callable[[int], bool]:
    """Layers up to `max_window_layers` see everything, those after it slide (Qwen2, Qwen3)."""
    full = int(config["max_window_layers"])
    return lambda index: index >= full


def _mixed_layers(config: Config) -> Callable[[int], bool]:
    plain, step = config.get("mlp_only_layers") or (), int(config["decoder_sparse_step"])
    return lambda index: index not in plain and (index + 1) % step == 0


def _mixture(config: Config, shared: int | None = None) -> MixtureSpec:
    return MixtureSpec(
        num_experts=int(config.get("num_experts") or config["num_local_experts"]),  # transformers 5 renamed it
        experts_per_token=int(config["num_experts_per_tok"]),
        intermediate_size=int(config["moe_intermediate_size"]),
        normalise=bool(config["norm_topk_prob"]),
        shared_intermediate_size=shared,
    )


_FOUR_NORMS: Final = LayerNames(
    attention_post_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    mlp_post_norm="post_feedforward_layernorm",
)
_POST_NORMS: Final = LayerNames(
    attention_norm=None,
    attention_post_norm="post_attention_layernorm",
    mlp_norm=None,
    mlp_post_norm="post_feedforward_layernorm",
)
_PHI3_NAMES: Final = LayerNames(qkv=("self_attn.qkv_proj",), gate_up=("mlp.gate_up_proj",))
_MIXTRAL_NAMES: Final = LayerNames(
    router="block_sparse_moe.gate",
    expert="block_sparse_moe.experts.{}.",
    expert_gate_up=("w1", "w3"),
    expert_down="w2",
)
_QWEN: Final = {"max_window_layers": 28}
_QWEN_MOE: Final = {**_QWEN, "qkv_bias": True, "decoder_sparse_step": 1, "norm_topk_prob": False}
_EPS_5: Final = {"rms_norm_eps": 1e-5}
_OLMO3: Final = {**_EPS_5, "sliding_window": 4096, "rope_theta": 500_000.0}
_GEMMA: Final = {"tie_word_embeddings": True, "hidden_act": "gelu_pytorch_tanh", "head_dim": 256}
_GEMMA2: Final = {
    **_GEMMA,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
_GEMMA3: Final = {
    **_GEMMA2,
    "attn_logit_softcapping": None,
    "final_logit_softcapping": None,
    "sliding_window_pattern": 6,
    "rope_theta": 1_000_000.0,
}
_GRANITE: Final = dict.fromkeys(
    ("attention_multiplier", "embedding_multiplier", "residual_multiplier", "logits_scaling"), 1.0
)

FAMILIES: Final[Mapping[str, Family]] = MappingProxyType(
    {
        "LlamaForCausalLM": Family("llama", _llama),
        "MistralForCausalLM": Family("mistral", _mistral, {"sliding_window": 4096}),
        "MixtralForCausalLM": Family("mixtral", _mixtral, _EPS_5, _MIXTRAL_NAMES),
        "Qwen2ForCausalLM": Family("qwen2", _qwen2, _QWEN),
        "Qwen2MoeForCausalLM": Family("qwen2_moe", _qwen2_moe, _QWEN_MOE),
        "Qwen3ForCausalLM": Family("qwen3", _qwen3, {**_QWEN, "head_dim": 128}),
        "Qwen3MoeForCausalLM": Family("qwen3_moe", _qwen3_moe, _QWEN_MOE),
        "SmolLM3ForCausalLM": Family("smollm3", _smollm3, {"tie_word_embeddings": True, "no_rope_layer_interval": 4}),
        "Phi3ForCausalLM": Family("phi3", _mistral, _EPS_5, _PHI3_NAMES),
        "GemmaForCausalLM": Family("gemma", _gemma, _GEMMA),
        "Gemma2ForCausalLM": Family("gemma2", _gemma2, _GEMMA2, _FOUR_NORMS),
        "Gemma3ForCausalLM": Family("gemma3", _gemma3, _GEMMA3, _FOUR_NORMS, sliding_theta=10_000.0),
        "GraniteForCausalLM": Family("granite", _granite, _GRANITE),
        "Olmo2ForCausalLM": Family("olmo2", _olmo2, _EPS_5, _POST_NORMS),
        "Olmo3ForCausalLM": Family("olmo3", _olmo3, _OLMO3, _POST_NORMS, sliding_theta=500_000.0),
        "OlmoeForCausalLM": Family("olmoe", _olmoe, {**_EPS_5, "norm_topk_prob": False}),
        "SeedOssForCausalLM": Family("seed_oss", _seed_oss, {"attention_bias": True, "attention_out_bias": False}),
    }
)
FAMILY_OF_NAME: Final[Mapping[str, Family]] = MappingProxyType({family.name: family for family in FAMILIES.values()})

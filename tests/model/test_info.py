"""Reading a model's configuration: what is served, and what is refused by which name."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from octavo_runtime.errors import ModelNotFound, ModelUnsupported
from octavo_runtime.model.info import RopeScaling, read_model_info

LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "eos_token_id": 2,
    "bos_token_id": 1,
    "torch_dtype": "bfloat16",
}


@pytest.fixture
def folder(tmp_path):
    """A folder with the given config.json, and weights that nobody looks into."""

    def make(generation=None, weights="model.safetensors", **changes):
        config = {key: value for key, value in {**LLAMA, **changes}.items() if value is not None}
        (tmp_path / "config.json").write_text(json.dumps(config))
        if generation is not None:
            (tmp_path / "generation_config.json").write_text(json.dumps(generation))
        if weights is not None:
            (tmp_path / weights).touch()
        return tmp_path

    return make


def test_a_llama_folder(folder):
    info = read_model_info(folder())
    assert (info.architecture, info.weight_format, info.quantization) == ("llama", "safetensors", None)
    assert (info.vocab_size, info.hidden_size, info.intermediate_size, info.num_layers) == (1000, 64, 96, 2)
    assert (info.num_heads, info.num_kv_heads, info.head_dim, info.max_positions) == (4, 2, 16, 512)
    assert (info.rope_theta, info.rope_scaling, info.rms_norm_eps) == (10000.0, None, 1e-5)
    assert (info.bos_token_id, info.eos_token_ids, info.dtype) == (1, frozenset({2}), "bfloat16")
    assert not any([info.tie_word_embeddings, info.qkv_bias, info.output_bias, info.mlp_bias, info.qk_norm])
    assert info.kv_bytes_per_token(2) == 2 * 2 * 2 * 16 * 2


def test_end_tokens_of_both_files_count(folder):
    """generation_config.json lists more end tokens than config.json in many chat models."""
    assert read_model_info(folder(generation={"eos_token_id": [7, 8]})).eos_token_ids == {2, 7, 8}


def test_what_sets_the_families_apart(folder):
    qwen2 = read_model_info(folder(architectures=["Qwen2ForCausalLM"]))
    qwen3 = read_model_info(folder(architectures=["Qwen3ForCausalLM"], head_dim=128))
    mistral = read_model_info(folder(architectures=["MistralForCausalLM"]))
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, False)
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, True, 128)
    assert (mistral.architecture, mistral.qkv_bias, mistral.qk_norm) == ("mistral", False, False)


def test_heads_without_groups(folder):
    assert read_model_info(folder(num_key_value_heads=None)).num_kv_heads == 4


@pytest.mark.parametrize(
    ("changes", "positions"),
    [
        ({"sliding_window": 128}, 128),
        ({"sliding_window": 128, "use_sliding_window": False}, 512),
        ({"sliding_window": None}, 512),
        ({"sliding_window": 4096}, 512),
    ],
)
def test_a_sliding_window_bounds_the_length(folder, changes, positions):
    """Within the window, full attention is the same; beyond it, it is not, so the model is not served there."""
    assert read_model_info(folder(architectures=["MistralForCausalLM"], **changes)).max_positions == positions


LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    ("changes", "theta", "scaling"),
    [
        ({"rope_scaling": None}, 10000.0, None),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 10000.0, RopeScaling("linear", 2.0)),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 10000.0, RopeScaling("llama3", 8.0, 1.0, 4.0, 8192)),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, None),
        (
            {"rope_theta": None, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
            5e5,
            RopeScaling("llama3", 8.0, 1.0, 4.0, 8192),
        ),
    ],
)
def test_rope_in_the_old_and_the_new_spelling(folder, changes, theta, scaling):
    info = read_model_info(folder(**changes))
    assert (info.rope_theta, info.rope_scaling) == (theta, scaling)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MambaForCausalLM"]}, "MambaForCausalLM.* is not served"),
        ({"architectures": None}, "is not served"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"hidden_act": "gelu"}, "gelu"),
        ({"rope_scaling": {"type": "yarn", "factor": 2.0}}, "yarn"),
        ({"rope_scaling": {"rope_type": "llama3", "factor": 2.0}}, "low_freq_factor"),
        ({"torch_dtype": "float8_e4m3fn"}, "float8_e4m3fn"),
        ({"vocab_size": None}, "vocab_size = None"),
        ({"num_attention_heads": -4}, "num_attention_heads = -4"),
        ({"weights": "pytorch_model.bin"}, "pickles .pytorch_model.bin.*run code"),
    ],
)
def test_what_is_not_served_is_refused_by_name(folder, changes, message):
    with pytest.raises(ModelUnsupported, match=message) as caught:
        read_model_info(folder(**changes))
    assert caught.value.reason == "ModelUnsupported"


def test_a_missing_path_is_named(tmp_path):
    with pytest.raises(ModelNotFound, match="nowhere does not exist") as caught:
        read_model_info(tmp_path / "nowhere")
    assert caught.value.reason == "ModelNotFound"


def test_a_folder_without_weights(folder):
    with pytest.raises(ModelNotFound, match=r"no \*.safetensors weights"):
        read_model_info(folder(weights=None))


def test_an_empty_folder(tmp_path):
    with pytest.raises(ModelNotFound, match=r"neither a config.json nor a .gguf"):
        read_model_info(tmp_path)


def test_a_folder_with_several_gguf_files(tmp_path):
    (tmp_path / "a.gguf").touch()
    (tmp_path / "b.gguf").touch()
    with pytest.raises(ModelUnsupported, match=r"a.gguf, b.gguf"):
        read_model_info(tmp_path)


def test_a_file_that_is_no_model(tmp_path):
    file = tmp_path / "model.zip"
    file.touch()
    with pytest.raises(ModelUnsupported, match=r"neither a folder nor a .gguf"):
        read_model_info(file)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_config(folder, content):
    path = folder()
    (path / "config.json").write_text(content)
    with pytest.raises(ModelUnsupported, match=r"config.json is not"):
        read_model_info(path)


def test_reading_loads_no_torch(folder):
    """The API process reads the configuration and must not pay for torch."""
    program = (
        "import sys; from pathlib import Path; from octavo_runtime.model.info import read_model_info;"
        f"read_model_info(Path({str(folder())!r})); assert not {{'torch', 'transformers'}} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)

"""Reading a model's configuration: what is served, and what is refused by which name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from octavo_runtime.errors import ModelAccessDenied, ModelNotFound, ModelUnsupported
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.spec import (
    CacheShape,
    LinearScaling,
    Llama3Scaling,
    LongScaling,
    YarnScaling,
)

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
    decoder = info.decoder
    assert (info.architecture, info.weight_format, info.quantization) == ("llama", "safetensors", None)
    assert (info.vocab_size, decoder.hidden_size, decoder.intermediate_size) == (1000, 64, 96)
    assert (decoder.num_heads, info.cache_shapes, info.max_positions) == (4, (CacheShape(2, 16),) * 2, 512)
    assert (decoder.ropes[0].theta, decoder.ropes[0].scaling, decoder.rms_norm_eps) == (10000.0, None, 1e-5)
    assert (info.bos_token_id, info.eos_token_ids, info.dtype) == (1, frozenset({2}), "bfloat16")
    assert not any([decoder.tie_word_embeddings, decoder.qkv_bias, decoder.output_bias, decoder.mlp_bias])
    assert (decoder.qk_norm, decoder.attention_scale, decoder.activation) == (None, 0.25, "silu")
    assert info.kv_bytes_per_token(2) == 2 * 2 * 2 * 16 * 2
    assert info.kv_bytes_per_token(1, 2) == 2 * 2 * 2 * (16 + 2), "int8 with a scale for each head"


def test_end_tokens_of_both_files_count(folder):
    """generation_config.json lists more end tokens than config.json in many chat models."""
    assert read_model_info(folder(generation={"eos_token_id": [7, 8]})).eos_token_ids == {2, 7, 8}


def decoder_of(folder, name, **changes):
    return read_model_info(folder(architectures=[f"{name}ForCausalLM"], **changes)).decoder


def test_what_sets_the_families_apart(folder):
    qwen2, qwen3 = decoder_of(folder, "Qwen2"), decoder_of(folder, "Qwen3")
    mistral = decoder_of(folder, "Mistral", sliding_window=None)
    assert (qwen2.qkv_bias, qwen2.output_bias, qwen2.qk_norm) == (True, False, None)
    assert (qwen3.qkv_bias, qwen3.qk_norm, qwen3.head_dim) == (False, "head", 128)
    assert (mistral.qkv_bias, mistral.qk_norm, mistral.head_dim) == (False, None, 16)


def test_what_gemma_leaves_out_of_its_file(folder):
    gemma2 = decoder_of(folder, "Gemma2")
    assert (gemma2.head_dim, gemma2.activation, gemma2.tie_word_embeddings) == (256, "gelu_tanh", True)
    assert (gemma2.attention_soft_cap, gemma2.logit_soft_cap, gemma2.attention_scale) == (50.0, 30.0, 1 / 16)
    assert (gemma2.embedding_scale, gemma2.norm_offset) == (8.0, 1.0)


def test_a_architecture_that_is_not_ours_is_left_to_transformers(folder):
    info = read_model_info(folder(architectures=["StableLmForCausalLM"]))
    assert (info.architecture, info.decoder, info.cache_shapes) == (
        "StableLmForCausalLM", None, (CacheShape(2, 16),) * 2,
    )  # fmt: skip


def test_the_names_that_gpt2_has_for_its_sizes(folder):
    sizes = {"n_embd": 48, "n_head": 3, "n_layer": 5, "n_positions": 77}
    others = dict.fromkeys(
        ("hidden_size", "num_attention_heads", "num_key_value_heads", "num_hidden_layers", "max_position_embeddings")
    )
    info = read_model_info(folder(architectures=["GPT2LMHeadModel"], **others, **sizes))
    assert (info.max_positions, info.cache_shapes) == (77, (CacheShape(3, 16),) * 5)


def test_heads_without_groups(folder):
    assert read_model_info(folder(num_key_value_heads=None)).cache_shapes[0].num_kv_heads == 4


def windows(folder, name, **changes):
    return [layer.window for layer in decoder_of(folder, name, num_hidden_layers=6, **changes).layers]


@pytest.mark.parametrize(
    ("name", "changes", "expected"),
    [
        ("Llama", {"sliding_window": 8}, [None] * 6),
        ("Mistral", {"sliding_window": 8}, [8] * 6),
        ("Mistral", {"sliding_window": None}, [4096] * 6),
        ("Qwen2", {"sliding_window": 8, "max_window_layers": 4}, [None] * 6),
        ("Qwen2", {"sliding_window": 8, "max_window_layers": 4, "use_sliding_window": True}, [None] * 4 + [8] * 2),
        ("Gemma2", {"sliding_window": 8}, [8, None] * 3),
        ("Gemma3", {"sliding_window": 8}, [8] * 5 + [None]),
        ("Gemma3", {"sliding_window": 8, "sliding_window_pattern": 2}, [8, None] * 3),
        (
            "Gemma3",
            {"sliding_window": 8, "layer_types": ["full_attention"] * 5 + ["sliding_attention"]},
            [None] * 5 + [8],
        ),
        ("Olmo3", {"sliding_window": 8}, [8, 8, 8, None, 8, 8]),
    ],
)
def test_which_layers_have_a_window(folder, name, changes, expected):
    assert windows(folder, name, **changes) == expected


def test_a_window_does_not_bound_the_length(folder):
    assert read_model_info(folder(architectures=["MistralForCausalLM"], sliding_window=8)).max_positions == 512


def test_layers_without_rope(folder):
    ropes = [layer.rope for layer in decoder_of(folder, "SmolLM3", num_hidden_layers=8).layers]
    assert ropes == [0, 0, 0, None] * 2
    ropes = [layer.rope for layer in decoder_of(folder, "SmolLM3", no_rope_layers=[0, 1]).layers]
    assert ropes == [None, 0]


def test_gemma3_rotates_its_sliding_layers_otherwise(folder):
    """In the old spelling and in the new one."""
    old = {"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}}
    new = {
        "rope_theta": None,
        "rope_parameters": {
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
        },
    }
    for changes in (old, new):
        decoder = decoder_of(folder, "Gemma3", **changes)
        assert [(rope.theta, rope.scaling) for rope in decoder.ropes] == [(1e6, LinearScaling(8.0)), (1e4, None)]
        assert decoder.layers[0].rope == 1


def test_which_layers_have_experts(folder):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8}
    decoder = decoder_of(folder, "Qwen3Moe", num_hidden_layers=6, decoder_sparse_step=2, mlp_only_layers=[3], **sizes)
    assert [layer.mixture for layer in decoder.layers] == [False, True, False, False, False, True]


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
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 10000.0, LinearScaling(2.0)),
        ({"rope_scaling": {"rope_type": "llama3", **LLAMA3}}, 10000.0, Llama3Scaling(8.0, 1.0, 4.0, 8192)),
        ({"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, None),
        (
            {"rope_theta": None, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
            5e5,
            Llama3Scaling(8.0, 1.0, 4.0, 8192),
        ),
    ],
)
def test_rope_in_the_old_and_the_new_spelling(folder, changes, theta, scaling):
    (rope,) = read_model_info(folder(**changes)).decoder.ropes
    assert (rope.theta, rope.dim, rope.scaling) == (theta, 16, scaling)


def test_yarn(folder):
    """Its amplitude is 0.1 ln(factor) + 1 unless the file says otherwise."""
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    (rope,) = read_model_info(folder(rope_scaling=yarn)).decoder.ropes
    assert rope.scaling == YarnScaling(4.0, 32.0, 1.0, True, 128, pytest.approx(1.13863, abs=1e-5))
    (rope,) = read_model_info(folder(rope_scaling={**yarn, "attention_factor": 1.0})).decoder.ropes
    assert rope.scaling.amplitude == 1.0


def test_longrope_and_a_part_of_each_head(folder):
    long = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    changes = {"rope_scaling": long, "original_max_position_embeddings": 64, "partial_rotary_factor": 0.5}
    (rope,) = decoder_of(folder, "Phi3", **changes).ropes
    assert (rope.dim, rope.scaling) == (8, LongScaling((1.0,) * 4, (2.0,) * 4, 64, pytest.approx(1.5**0.5)))


def test_on_transformers_path_longrope_ends_where_it_would_switch(folder):
    """Its code rotates by the longest sequence of the batch, which would let neighbours change each other's text."""
    long = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    changes = {"rope_scaling": long, "original_max_position_embeddings": 64}
    assert read_model_info(folder(architectures=["StableLmForCausalLM"], **changes)).max_positions == 64
    assert read_model_info(folder(**changes)).max_positions == 512


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": None}, "names no architectures"),
        ({"architectures": ["T5ForCausalLM"], "is_encoder_decoder": True}, "T5ForCausalLM.* has an encoder"),
        ({"vocab_size": None, "text_config": {}}, "takes more than text"),
        ({"layer_types": ["linear_attention", "full_attention"]}, "layer_types .*linear_attention"),
        ({"architectures": ["OlmoeForCausalLM"], "clip_qkv": 8.0}, "clip_qkv = 8.0"),
        ({"architectures": ["MixtralForCausalLM"]}, "lacks 'num_local_experts'"),
        ({"auto_map": {"AutoModel": "x.Y"}}, "auto_map"),
        ({"quantization_config": {"quant_method": "awq"}}, "awq"),
        ({"hidden_act": "relu2"}, "relu2"),
        ({"rope_scaling": {"type": "xpos", "factor": 2.0}}, "xpos"),
        ({"rope_scaling": {"type": "longrope"}}, "'longrope' without 'short_factor'"),
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


@contextmanager
def nobody():
    """Root may read everything, so it is not root for a while."""
    mine = os.geteuid()
    os.seteuid(mine or 65534)
    try:
        yield
    finally:
        os.seteuid(mine)


@pytest.mark.parametrize("locked", ["config.json", "model.safetensors", "."])
def test_a_file_that_our_user_may_not_read_is_named(locked):
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are for their owner alone
        path = Path(name)
        (path / "config.json").write_text(json.dumps(LLAMA))
        (path / "model.safetensors").touch()
        path.chmod(0o755)
        (path / locked).chmod(0)
        with nobody(), pytest.raises(ModelAccessDenied, match=f"{path}.* may not be read by user "):
            read_model_info(path)
        path.chmod(0o755)

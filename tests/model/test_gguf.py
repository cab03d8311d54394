"""GGUF files: a small one written here is the same model as its safetensors folder, and a damaged one is refused."""

from __future__ import annotations

import dataclasses

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.gguf_header import read_gguf_header
from octavo_runtime.model.gguf_weights import unpermute
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.loader import load_weights, open_weights
from octavo_runtime.model.spec import LinearScaling

NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "block_sparse_moe.gate": "ffn_gate_inp",
}
FOUR_NORMS = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
EXPERT = {
    "gate_proj": "ffn_gate_exps", "up_proj": "ffn_up_exps", "down_proj": "ffn_down_exps",
    "w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps",
}  # fmt: skip
Type = gguf.GGMLQuantizationType


def gguf_name(name: str, architecture: str) -> str:
    stem, _, kind = name.rpartition(".")
    names = {**NAMES, **FOUR_NORMS} if architecture in ("gemma2", "gemma3") else NAMES
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.{EXPERT[rest] if rest in EXPERT else names[rest]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def permute(weight: np.ndarray, num_heads: int) -> np.ndarray:
    """llama.cpp's row order for the Llama architecture, as its converter writes it."""
    shape = (num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return weight.reshape(shape).swapaxes(1, 2).reshape(weight.shape)


def stack_experts(tensors):
    """One tensor for all experts' matrices of a kind, as in the file: `….experts.3.w1.weight` to `….w1.weight`."""
    stacks = {}
    for name in sorted(tensors, key=lambda name: [int(part) if part.isdigit() else -1 for part in name.split(".")]):
        before, experts, after = name.partition(".experts.")
        place = f"{before.rpartition('.')[0]}.{after.partition('.')[2]}" if experts else name
        stacks.setdefault(place, []).append(tensors[name])
    return {
        name: torch.stack(parts) if parts[0].ndim == 2 and len(parts) > 1 else parts[0]
        for name, parts in stacks.items()
    }


def write(folder, file, architecture, kind=Type.F32, **metadata):
    """The safetensors model in `folder` as a GGUF file, matrices in `kind`."""
    info = read_model_info(folder)
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_context_length(info.max_positions)
    writer.add_embedding_length(info.decoder.hidden_size)
    writer.add_block_count(len(info.decoder.layers))
    writer.add_feed_forward_length(info.decoder.intermediate_size)
    writer.add_head_count(info.decoder.num_heads)
    writer.add_head_count_kv(info.decoder.num_kv_heads)
    writer.add_key_length(info.decoder.head_dim)
    writer.add_layer_norm_rms_eps(info.decoder.rms_norm_eps)
    writer.add_rope_freq_base(info.decoder.ropes[0].theta)
    writer.add_eos_token_id(2)
    writer.add_eot_token_id(3)
    for key, value in metadata.items():
        writer.add_key_value(key.replace("__", "."), value, gguf.GGUFValueType.get_type(value))
    for name, tensor in stack_experts(load_file(folder / "model.safetensors")).items():
        weight = tensor.numpy()
        if "gemma" in architecture and name.endswith("norm.weight"):
            weight = weight + 1
        if architecture == "llama" and ".q_proj." in name:
            weight = permute(weight, info.decoder.num_heads)
        if architecture == "llama" and ".k_proj." in name:
            weight = permute(weight, info.decoder.num_kv_heads)
        stored = kind if weight.ndim > 1 else Type.F32
        writer.add_tensor(gguf_name(name, architecture), gguf.quantize(weight, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def metadata_of(folder, architecture):
    """Keys beyond those that every file has, by llama.cpp's converter (convert_hf_to_gguf.py)."""
    spec = read_model_info(folder).decoder
    window = next((layer.window for layer in spec.layers if layer.window), None)
    known = {
        "attention__sliding_window": window,
        "attn_logit_softcapping": spec.attention_soft_cap,
        "final_logit_softcapping": spec.logit_soft_cap,
        "expert_count": spec.mixture and spec.mixture.num_experts,
        "expert_used_count": spec.mixture and spec.mixture.experts_per_token,
        "expert_feed_forward_length": spec.mixture and spec.mixture.intermediate_size,
    }
    return {f"{architecture}__{key}": value for key, value in known.items() if value is not None}


@pytest.mark.parametrize(
    ("name", "architecture", "changes"),
    [
        ("Llama", "llama", {}),
        ("Llama", "llama", {"tie_word_embeddings": True}),
        ("Mistral", "llama", {"sliding_window": None}),
        ("Mistral", "llama", {"sliding_window": 6}),
        ("Qwen2", "qwen2", {}),
        ("Qwen3", "qwen3", {"head_dim": 32}),
        ("Gemma", "gemma", {}),
        ("Gemma2", "gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 6}),
        ("Gemma3", "gemma3", {"query_pre_attn_scalar": 16, "sliding_window": 6}),
        ("Mixtral", "llama", EXPERTS),
        ("Qwen3Moe", "qwen3moe", {**EXPERTS, "moe_intermediate_size": 48, "norm_topk_prob": True}),
    ],
    ids=["llama", "tied", "mistral", "window", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "mixtral", "qwen3moe"],
)
def test_the_same_model_in_both_formats(make_model, runner_of, drive, tmp_path, *, name, architecture, changes):
    """Written as F32 and read back, a model gives the tokens that its safetensors folder gives."""
    folder = make_model(name, **changes)
    file = write(folder, tmp_path / "model.gguf", architecture, **metadata_of(folder, architecture))
    prompts = [[5, 6, 7, 8, 9, 10], [11]]
    assert drive(runner_of(file), prompts, 10) == drive(runner_of(folder), prompts, 10)


def test_what_the_metadata_says(make_model, tmp_path):
    folder = make_model("Llama")
    info = read_model_info(write(folder, tmp_path / "model.gguf", "llama", Type.Q8_0))
    plain = read_model_info(folder)
    for field in ("architecture", "vocab_size", "max_positions", "cache_shapes"):
        assert getattr(info, field) == getattr(plain, field)
    assert info.decoder == dataclasses.replace(plain.decoder, rms_norm_eps=info.decoder.rms_norm_eps)
    assert info.decoder.rms_norm_eps == pytest.approx(plain.decoder.rms_norm_eps)  # kept in fp32
    assert (info.weight_format, info.quantization, info.dtype) == ("gguf", "Q8_0", "bfloat16")
    assert info.eos_token_ids == {2, 3}
    assert not info.decoder.tie_word_embeddings


def test_a_folder_with_one_file_is_that_file(make_model, tmp_path):
    file = write(make_model("Llama"), tmp_path / "model.gguf", "llama", Type.F16)
    info = read_model_info(tmp_path)
    assert (info.path, info.quantization, info.dtype) == (file, None, "float16")


@pytest.mark.parametrize("kind", [Type.F16, Type.Q8_0, Type.Q4_1, Type.Q5_0, Type.BF16], ids=lambda kind: kind.name)
def test_weights_are_decoded(make_model, tmp_path, kind):
    """What is read is what the format kept of the original, within the format's own step."""
    folder = make_model("Llama")
    file = write(folder, tmp_path / "model.gguf", "llama", kind)
    info = read_model_info(file)
    source = open_weights(info, info.decoder)
    for name, original in load_file(folder / "model.safetensors").items():
        step = {"F16": 1e-3, "BF16": 4e-3, "Q8_0": 5e-3, "Q4_1": 0.04, "Q5_0": 0.04}[kind.name]
        error = (source.load(name) - original).abs().max() / (original.max() - original.min())
        assert error <= (step if original.ndim > 1 else 0), name


def test_llama3_rope_factors_come_as_a_tensor(make_model, tmp_path):
    """llama.cpp's converter writes no scaling keys for Llama 3 but the divisors of the frequencies."""
    folder = make_model("Llama")
    file = tmp_path / "model.gguf"
    divisors = np.linspace(1, 8, 8, dtype=np.float32)
    original = gguf.GGUFWriter.write_header_to_file

    def with_factors(writer, *args):
        writer.add_tensor("rope_freqs.weight", divisors)
        original(writer, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf.GGUFWriter, "write_header_to_file", with_factors)
        write(folder, file, "llama")
    info = read_model_info(file)
    weights = load_weights(
        info, info.decoder, open_weights(info, info.decoder), device=torch.device("cpu"), dtype=torch.float32
    )
    plain = 1 / info.decoder.ropes[0].theta ** (torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(weights.ropes[0].frequencies, plain / torch.from_numpy(divisors))


def test_unpermute_undoes_the_converter():
    weight = np.arange(8 * 3 * 5, dtype=np.float32).reshape(24, 5)
    assert torch.equal(unpermute(torch.from_numpy(permute(weight, 4)), 4), torch.from_numpy(weight))
    bias = np.arange(24, dtype=np.float32)
    assert torch.equal(unpermute(torch.from_numpy(permute(bias, 4)), 4), torch.from_numpy(bias))


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama__rope__scaling__type": "yarn"}, "rope scaling 'yarn'"),
        ({"split__count": 3}, "one of 3 parts"),
    ],
)
def test_what_is_not_served_is_refused_by_name(make_model, tmp_path, metadata, message):
    file = write(make_model("Llama"), tmp_path / "model.gguf", "llama", **metadata)
    with pytest.raises(ModelUnsupported, match=message):
        read_model_info(file)


def test_an_unknown_architecture_is_named(make_model, tmp_path):
    file = write(make_model("Llama"), tmp_path / "model.gguf", "mamba")
    with pytest.raises(ModelUnsupported, match="'mamba' is not served"):
        read_model_info(file)


def test_linear_rope_scaling(make_model, tmp_path):
    metadata = {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0}
    file = write(make_model("Llama"), tmp_path / "model.gguf", "llama", **metadata)
    assert read_model_info(file).decoder.ropes[0].scaling == LinearScaling(4.0)


@pytest.mark.parametrize(("kind", "message"), [(26, "I32"), (77, "77")], ids=["I32", "unknown"])
def test_a_type_that_cannot_be_decoded_is_named(make_model, tmp_path, kind, message):
    file = write(make_model("Llama"), tmp_path / "model.gguf", "llama", Type.Q8_0)
    content = bytearray(file.read_bytes())
    at = content.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 2 * 8
    content[at : at + 4] = kind.to_bytes(4, "little")
    file.write_bytes(content)
    info = read_model_info(file)
    with pytest.raises(ModelUnsupported, match=f"token_embd.weight cannot be decoded: .*{message}"):
        open_weights(info, info.decoder).load("model.embed_tokens.weight")


def test_weights_that_are_cut_off_are_refused(make_model, tmp_path):
    """A download that broke off: the header is whole, and the last tensor is not."""
    file = write(make_model("Llama"), tmp_path / "model.gguf", "llama")
    file.write_bytes(file.read_bytes()[:-100])
    info = read_model_info(file)
    source = open_weights(info, info.decoder)
    *_, last = source.names
    with pytest.raises(ModelUnsupported, match="cannot be decoded"):
        source.load(last)


def test_the_header_equals_that_of_the_gguf_package(make_model, tmp_path):
    file = write(
        make_model("Qwen2"), tmp_path / "model.gguf", "qwen2", Type.Q4_1, tokenizer__ggml__tokens=["a", "ü", ""]
    )
    ours, theirs = read_gguf_header(file), gguf.GGUFReader(file)
    assert ours.metadata == {
        key: field.contents() for key, field in theirs.fields.items() if not key.startswith("GGUF.")
    }
    assert {name: (tensor.shape, tensor.ggml_type, tensor.offset) for name, tensor in ours.tensors.items()} == {
        tensor.name: (tuple(tensor.shape[::-1].tolist()), tensor.tensor_type, tensor.data_offset)
        for tensor in theirs.tensors
    }


@pytest.mark.parametrize("keep", [0, 3, 10, 40, 200, 900])
def test_a_file_cut_short_is_refused(make_model, tmp_path, keep):
    file = write(make_model("Llama"), tmp_path / "model.gguf", "llama")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ModelUnsupported, match="not a readable GGUF"):
        read_model_info(file)


def test_another_file_under_the_name_is_refused(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"PK\x03\x04" + bytes(100))
    with pytest.raises(ModelUnsupported, match="it starts with b'PK"):
        read_model_info(file)

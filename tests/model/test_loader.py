"""Weights from safetensors: whole, sharded and tied, and never half a model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.loader import load_weights, open_weights

CPU = torch.device("cpu")


def load(folder, progress=lambda _: None):
    info = read_model_info(folder)
    return load_weights(
        info, info.decoder, open_weights(info, info.decoder), device=CPU, dtype=torch.float32, progress=progress
    )


def greedy(folder, runner_of, drive):
    return drive(runner_of(folder), [[5, 6, 7], [8]], 6)


@pytest.fixture
def llama(make_model):
    return make_model("Llama")


def rewrite(folder, change):
    """Change the weights in the folder's one safetensors file."""
    file = folder / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def test_shards_give_the_same_model(make_model, runner_of, drive):
    whole, sharded = make_model("Llama"), make_model("Llama", max_shard_size="50KB")
    assert len(list(sharded.glob("*.safetensors"))) > 3
    assert greedy(sharded, runner_of, drive) == greedy(whole, runner_of, drive)


def test_a_tied_head_needs_no_weight_of_its_own(make_model):
    folder = make_model("Llama", tie_word_embeddings=True)
    weights = load(folder)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    torch.testing.assert_close(weights.lm_head(torch.eye(64)), weights.embedding.T)


def test_a_tied_head_wins_over_a_leftover_weight(make_model, runner_of, drive):
    """Some folders carry lm_head.weight though their configuration ties it."""
    folder = make_model("Llama", tie_word_embeddings=True)
    expected = greedy(folder, runner_of, drive)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": torch.zeros(199, 64)}))
    assert greedy(folder, runner_of, drive) == expected


def test_the_embedding_keeps_the_checkpoints_dtype(llama):
    """A second copy of it is packed for the product; the table itself need not grow."""
    rewrite(llama, lambda tensors: tensors.update({name: t.bfloat16() for name, t in tensors.items()}))
    assert load(llama).embedding.dtype == torch.bfloat16


def test_progress_rises_to_one(llama):
    heard: list[float] = []
    load(llama, heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0
    assert len(heard) == 4


def test_a_missing_weight_is_named(llama):
    rewrite(llama, lambda tensors: tensors.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(ModelUnsupported, match=r"no weight model.layers.1.mlp.up_proj.weight"):
        load(llama)


def test_a_weight_of_another_shape_is_named(llama):
    rewrite(llama, lambda tensors: tensors.update({"model.norm.weight": torch.ones(63)}))
    with pytest.raises(ModelUnsupported, match=r"model.norm.weight is \(63,\); config says \(64,\)"):
        load(llama)


def test_weights_that_would_be_ignored_are_refused(llama):
    """A bias that the configuration does not mention would be left out, and the answers would be wrong."""
    rewrite(llama, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.ones(64)}))
    with pytest.raises(ModelUnsupported, match=r"1 weights that llama lacks: model.layers.0.self_attn.q_proj.bias"):
        load(llama)


def test_old_rotary_buffers_are_no_weights(llama):
    rewrite(llama, lambda tensors: tensors.update({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(8)}))
    load(llama)


def test_a_damaged_file_is_named(llama):
    (llama / "model.safetensors").write_bytes(b"no weights at all")
    with pytest.raises(ModelUnsupported, match=r"model.safetensors is not a readable"):
        load(llama)


def test_a_configuration_that_contradicts_the_weights(llama):
    config = json.loads((llama / "config.json").read_text())
    (llama / "config.json").write_text(json.dumps({**config, "num_key_value_heads": 4}))
    with pytest.raises(ModelUnsupported, match=r"k_proj.weight is \(32, 64\); config says \(64, 64\)"):
        load(llama)

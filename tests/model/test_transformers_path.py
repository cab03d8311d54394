"""Architectures that transformers' own code computes: what is read off them at load, and what is refused and why."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from conformance.tiny import CPU, save_tiny, tiny_config
from octavo_kernels.select import select_backend
from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.model.spec import CacheShape


@pytest.fixture
def make(tmp_path):
    """Save a tiny model of transformers' class `name`; returns its folder."""
    import transformers

    def save(name, **changes):
        model_class = getattr(transformers, name)
        save_tiny(model_class, tiny_config(model_class.config_class, layers=2, **changes), tmp_path)
        return tmp_path

    return save


def load(folder, dtype=torch.float32, progress=lambda _: None):
    backend = select_backend("cpu", CPU)
    return load_decoder(read_model_info(folder), backend, device=CPU, dtype=dtype, progress=progress)


def test_caches_have_the_shapes_that_the_layers_use(make):
    """Keys of a latent attention are wider than its values, and one cache holds both."""
    assert load(make("DeepseekV3ForCausalLM")).cache_shapes == [CacheShape(4, 24)] * 2


def test_progress_ends_at_one(make):
    heard: list[float] = []
    load(make("GPT2LMHeadModel"), progress=heard.append)
    assert heard == sorted(heard)
    assert heard[-1] == 1.0


def test_a_model_in_bfloat16_passes_its_own_check(make):
    assert load(make("StableLmForCausalLM"), dtype=torch.bfloat16).cache_shapes


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("BloomForCausalLM", "max_position_embeddings = None"),
        ("FalconForCausalLM", "outside transformers' attention interface"),
        ("RobertaForCausalLM", "attention that is not causal, or in chunks"),
        ("DogeForCausalLM", "attention masks of its own"),
    ],
)
def test_what_pages_cannot_do_is_refused_by_name(make, name, reason):
    with pytest.raises(ModelUnsupported, match=reason):
        load(make(name))


def test_layers_with_a_state_of_their_own_are_refused(make):
    with pytest.raises(ModelUnsupported, match="layers of type conv"):
        load(make("Lfm2ForCausalLM", layer_types=["conv", "full_attention"]))


def test_attention_in_chunks_is_refused():
    """Llama 4's mask ends at multiples of 8,192; one whose chunks are longer than the model would be causal."""
    from transformers.masking_utils import chunked_causal_mask_function

    from octavo_runtime.model.transformers_attention import read_window

    chunks = chunked_causal_mask_function(64, torch.zeros(1, dtype=int))
    assert read_window(chunks, 64) is None
    with pytest.raises(ModelUnsupported, match="in chunks"):
        read_window(chunks, 256)


@pytest.mark.parametrize("window", [1, 2, 7, 255])
def test_a_window_is_read_off_its_mask(window):
    from transformers.masking_utils import sliding_window_causal_mask_function

    from octavo_runtime.model.transformers_attention import read_window

    assert read_window(sliding_window_causal_mask_function(window), 256) == window
    assert read_window(sliding_window_causal_mask_function(256), 256) is None


def test_a_model_that_differs_on_pages_is_refused(make, monkeypatch):
    """Whatever it keeps besides keys and values: here, every pass adds to a sum that goes into the logits."""
    from transformers.models.gpt2 import modeling_gpt2

    original = modeling_gpt2.GPT2MLP.forward

    def forward(self, hidden_states):
        self.sum = getattr(self, "sum", 0) + hidden_states.mean(dim=(0, 1))
        return original(self, hidden_states) + self.sum

    folder = make("GPT2LMHeadModel")
    monkeypatch.setattr(modeling_gpt2.GPT2MLP, "forward", forward)
    with pytest.raises(ModelUnsupported, match="computes something else on pages than by itself"):
        load(folder)


def test_a_missing_weight_is_named(make):
    folder = make("StableLmForCausalLM")
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"1 weights are missing: model.layers.1.mlp.up_proj.weight"):
        load(folder)


def test_a_leftover_weight_is_named(make):
    folder = make("StableLmForCausalLM")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.q_proj.bias"] = torch.ones(64)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelUnsupported, match=r"1 weights are unexpected: model.layers.0.self_attn.q_proj.bias"):
        load(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"architectures": ["StableLmForSequenceClassification"]}, "is no causal language model of transformers"),
        ({"architectures": ["NewForCausalLM"], "model_type": "new"}, "transformers does not know NewForCausalLM"),
    ],
)
def test_what_transformers_does_not_know_is_refused(make, changes, reason):
    folder = make("StableLmForCausalLM")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelUnsupported, match=reason):
        load(folder)

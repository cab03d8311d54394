"""Many architectures, tiny and random, through the whole engine: each token is the one that transformers would choose.

The architectures are made by the same code as all others in runtime/MODELS.md; nothing here knows what is in them.
"""

from __future__ import annotations

import pytest
import torch

from conformance.tiny import compare, save_tiny, tiny_config

OWN = [
    "Llama", "Mistral", "Mixtral", "Qwen2", "Qwen2Moe", "Qwen3", "Qwen3Moe", "SmolLM3", "Phi3", "Gemma", "Gemma2",
    "Gemma3", "Granite", "Olmo2", "Olmo3", "Olmoe", "SeedOss",
]  # fmt: skip
THROUGH_TRANSFORMERS = [
    "Afmoe", "Apertus", "Arcee", "Cohere", "Cohere2", "CodeGen", "DeepseekV3", "Ernie4_5", "Exaone4", "GPTBigCode",
    "GPTNeoX", "Glm4", "GptOss", "Helium", "Nemotron", "OPT", "Olmo", "Phi", "Starcoder2", "StableLm",
]  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """So small products only lose by being shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*OWN, *THROUGH_TRANSFORMERS, "GPT2"])
def test_sixty_four_tokens_for_ten_prompts_in_one_batch(name, tmp_path):
    import transformers

    class_name = f"{name}LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    model_class = getattr(transformers, class_name)
    config = tiny_config(model_class.config_class, layers=2 if name in THROUGH_TRANSFORMERS else 4)
    save_tiny(model_class, config, tmp_path)
    outcome = compare(tmp_path, model_class)
    assert outcome.wrong == ()
    assert outcome.path == ("own" if name in OWN else "transformers")
    assert outcome.preemptions > 0
    assert outcome.distinct > 8, "a model that repeats itself shows nothing"

"""The decoder computes what transformers computes, for every served architecture."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from octavo_kernels.interface import PagedBatch
from octavo_kernels.select import select_backend
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner.torch_runner import allocate_caches

if TYPE_CHECKING:
    from octavo_runtime.model.decoder import Decoder, LayerCache

CPU = torch.device("cpu")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 5_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 5_000.0,
    "short_factor": [1.0, 1.1, 1.3, 1.7],
    "long_factor": [2.0, 3.0, 5.0, 8.0],
    "partial_rotary_factor": 0.5,
}
GEMMA3_ROPES = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 90_000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 3_000.0},
}
OLMO3_ROPES = {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 700.0}}
GRANITE = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.1,
    "residual_multiplier": 0.4,
    "logits_scaling": 5.0,
}
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 5, "moe_intermediate_size": 40, "sliding_window": 6}
SLIDING_FIRST = ["sliding_attention", "full_attention", "sliding_attention"]
MODELS = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3 rope": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, linear rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 9_000.0, "factor": 2.0}}),
    "llama, dynamic rope": (
        "Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 9_000.0, "factor": 2.0}},
    ),
    "llama, yarn": ("Llama", {"rope_parameters": YARN}),
    "llama, yarn as DeepSeek has it": (
        "Llama", {"rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 1.1, "truncate": False}},
    ),
    "llama, no groups": ("Llama", {"num_key_value_heads": 4}),
    "mistral, full attention": ("Mistral", {"sliding_window": None}),
    "mistral, window": ("Mistral", {"sliding_window": 6}),
    "qwen2": ("Qwen2", {}),
    "qwen2, window": ("Qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
    "qwen3, window": ("Qwen3", {"use_sliding_window": True, "sliding_window": 1, "max_window_layers": 2}),
    "smollm3, window": (
        "SmolLM3", {"no_rope_layers": [1, 0, 1], "use_sliding_window": True, "sliding_window": 4, "pad_token_id": 0},
    ),
    "phi3, short factors": (
        "Phi3", {"rope_parameters": {**LONG, "original_max_position_embeddings": 256}, "pad_token_id": 0},
    ),
    "phi3, long factors": (
        "Phi3", {"rope_parameters": {**LONG, "original_max_position_embeddings": 16}, "pad_token_id": 0},
    ),
    "gemma": ("Gemma", {}),
    "gemma2": ("Gemma2", {"sliding_window": 6, "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 30}),
    "gemma3": (
        "Gemma3",
        {"sliding_window": 6, "layer_types": SLIDING_FIRST, "rope_parameters": GEMMA3_ROPES},
    ),
    "granite": ("Granite", GRANITE),
    "olmo2": ("Olmo2", {"pad_token_id": 0}),
    "olmo3": (
        "Olmo3",
        {"sliding_window": 6, "layer_types": SLIDING_FIRST, "rope_parameters": OLMO3_ROPES, "pad_token_id": 0},
    ),
    "olmoe": ("Olmoe", {"num_experts_per_tok": 2, "num_experts": 5, "norm_topk_prob": True, "pad_token_id": 0}),
    "mixtral": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 6}),
    "qwen2-moe": ("Qwen2Moe", {**EXPERTS, "shared_expert_intermediate_size": 24, "mlp_only_layers": [1]}),
    "qwen3-moe": (
        "Qwen3Moe", {**EXPERTS, "norm_topk_prob": True, "use_sliding_window": True, "decoder_sparse_step": 2},
    ),
    "seed-oss": ("SeedOss", {"attention_out_bias": True}),
}  # fmt: skip
TOKENS = [3, 141, 59, 26, 5, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 197, 1]
PROMPTS = [TOKENS, [9], TOKENS[::-1], [7, 7, 7, 7, 7, 7], TOKENS[:4] * 9, [198, 0]]


def transformers_model(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")


def paged(start: int, length: int, table: list[int], block_size: int) -> PagedBatch:
    positions = range(start, start + length)
    return PagedBatch(
        query_start_loc=torch.tensor([0, length], dtype=torch.int32),
        seq_lens=torch.tensor([start + length], dtype=torch.int32),
        block_table=torch.tensor([table], dtype=torch.int32),
        slot_mapping=torch.tensor([table[p // block_size] * block_size + p % block_size for p in positions]),
        max_query_len=length,
        max_seq_len=start + length,
    )


def logits_of(decoder: Decoder, caches: list[LayerCache], tokens: list[int], chunks: list[int]) -> torch.Tensor:
    """Logits of all `tokens`, computed in `chunks`, with the context in blocks 5, 2, 8, … of 4 tokens."""
    rows, start = [], 0
    for length in chunks:
        batch = paged(start, length, [5, 2, 8, 1, 9, 4], 4)
        ids, positions = torch.tensor(tokens[start : start + length]), torch.arange(start, start + length)
        rows.append(decoder.forward(ids, positions, batch, caches, torch.arange(length)))
        start += length
    return torch.cat(rows)


def assert_same_logits(folder, backend, chunks):
    info = read_model_info(folder)
    assert info.decoder is not None, "our own decoder is meant"
    decoder = load_decoder(info, select_backend(backend, CPU), device=CPU, dtype=torch.float32)
    caches = allocate_caches(decoder.cache_shapes, 10, 4, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        theirs = transformers_model(folder)(torch.tensor([TOKENS])).logits[0]
    ours = logits_of(decoder, caches, TOKENS, chunks)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * theirs.abs().max().item())


@pytest.mark.parametrize(("name", "changes"), MODELS.values(), ids=MODELS.keys())
def test_logits_equal_those_of_transformers(make_model, name, changes):
    """A prompt in two chunks and a decode give transformers' logits to fp32's precision."""
    assert_same_logits(make_model(name, **changes), "cpu", [8, 12, 1])


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("chunks", [[21], [1] * 21, [8, 12, 1]], ids=["prefill", "decode", "chunked"])
@pytest.mark.parametrize("model", ["llama", "gemma2"])
def test_logits_do_not_depend_on_chunks_or_backend(make_model, model, backend, chunks):
    name, changes = MODELS[model]
    assert_same_logits(make_model(name, **changes), backend, chunks)


@pytest.mark.parametrize("chunk", [5, 1 << 30], ids=["chunked", "whole"])
def test_greedy_tokens_of_a_mixed_batch_equal_those_of_transformers(make_model, runner_of, drive, chunk):
    """Six prompts of different lengths in one batch, each with its blocks scattered over the cache."""
    folder = make_model("Llama")
    expected = transformers_model(folder)
    ours = drive(runner_of(folder), PROMPTS, 12, chunk=chunk)
    for prompt, tokens in zip(PROMPTS, ours, strict=True):
        ids = torch.tensor([prompt])
        theirs = expected.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=12,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
        )
        assert tokens == theirs[0, len(prompt) :].tolist()

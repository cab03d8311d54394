"""The decoder computes what transformers computes, for every served architecture."""

from __future__ import annotations

import pytest
import torch

from octavo_kernels.interface import PagedBatch
from octavo_kernels.select import select_backend
from octavo_runtime.model.decoder import Decoder, LayerCache
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.loader import load_weights, open_weights
from octavo_runtime.runner.torch_runner import allocate_caches

CPU = torch.device("cpu")
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 5_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
MODELS = {
    "llama": ("Llama", {}),
    "llama, tied": ("Llama", {"tie_word_embeddings": True}),
    "llama, biases": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama, llama3 rope": ("Llama", {"rope_parameters": LLAMA3}),
    "llama, linear rope": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 9_000.0, "factor": 2.0}}),
    "llama, no groups": ("Llama", {"num_key_value_heads": 4}),
    "mistral": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}
TOKENS = [3, 141, 59, 26, 5, 35, 89, 79, 32, 38, 46, 26, 43, 38, 32, 79, 50, 28, 84, 197, 1]
PROMPTS = [TOKENS, [9], TOKENS[::-1], [7, 7, 7, 7, 7, 7], TOKENS[:4] * 9, [198, 0]]


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys(), scope="module")
def folder(request, make_model):
    name, changes = request.param
    return make_model(name, **changes)


@pytest.fixture(scope="module")
def expected(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


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


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("chunks", [[21], [1] * 21, [8, 12, 1]], ids=["prefill", "decode", "chunked"])
def test_logits_equal_those_of_transformers(folder, expected, backend, chunks):
    """Prefill at once, token by token and in chunks: each gives transformers' logits to fp32's precision."""
    info = read_model_info(folder)
    weights = load_weights(info, open_weights(info), device=CPU, dtype=torch.float32)
    decoder = Decoder(info, weights, select_backend(backend, CPU), torch.float32)
    caches = allocate_caches(info, 10, 4, device=CPU, dtype=torch.float32)
    with torch.inference_mode():
        theirs = expected(torch.tensor([TOKENS])).logits[0]
    ours = logits_of(decoder, caches, TOKENS, chunks)
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5 * theirs.abs().max().item())


@pytest.mark.parametrize("chunk", [5, 1 << 30], ids=["chunked", "whole"])
def test_greedy_tokens_of_a_mixed_batch_equal_those_of_transformers(folder, expected, runner_of, drive, chunk):
    """Six prompts of different lengths in one batch, each with its blocks scattered over the cache."""
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

"""A decoder that is divided between ranks computes what the whole one computes, or is refused before it is loaded.

Here the ranks are threads of this process; with processes and pipes between them: test_parallel_runner.py.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from octavo_kernels.interface import PagedBatch
from octavo_kernels.select import select_backend
from octavo_runtime.errors import InvalidArgument
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.model.loader import open_weights
from octavo_runtime.model.shard import WHOLE, Cut, Shard, Span, check_divisible, whole
from octavo_runtime.runner.torch_runner import allocate_caches

CPU = torch.device("cpu")
TOKENS = [3, 141, 59, 26, 5, 35, 89, 79, 32, 38, 46, 26, 197, 0]
EXPERTS = {"num_experts_per_tok": 2, "num_experts": 5}
MODELS = {
    "llama, biases, tied": ("Llama", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "qwen3, heads normed": ("Qwen3", {"head_dim": 32}),
    "phi3, fused weights": ("Phi3", {"pad_token_id": 0}),
    "gemma2, window and soft caps": ("Gemma2", {"sliding_window": 6, "attn_logit_softcapping": 2.0}),
    "olmo2, rows normed": ("Olmo2", {"pad_token_id": 0}),
    "olmoe, rows normed, experts": ("Olmoe", {**EXPERTS, "pad_token_id": 0}),
    "mixtral": ("Mixtral", {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 6}),
    "qwen2-moe, shared expert": (
        "Qwen2Moe",
        {**EXPERTS, "moe_intermediate_size": 40, "shared_expert_intermediate_size": 24, "mlp_only_layers": [1]},
    ),
}


class Threads:
    """Collectives between threads: each puts its tensor down, all wait, each takes the same sum."""

    def __init__(self, size):
        self.size = size
        self._barrier = threading.Barrier(size, timeout=300)
        self._parts = [None] * size
        self._rank = threading.local()

    def enter(self, rank):
        self._rank.value = rank

    def all_reduce(self, x):
        return torch.stack(self._exchange(x)).sum(dim=0)

    def all_gather(self, x):
        return torch.cat(self._exchange(x), dim=1)

    def _exchange(self, x):
        self._parts[self._rank.value] = x
        self._barrier.wait()
        parts = list(self._parts)
        self._barrier.wait()
        return parts


def batch_of(start, length):
    table = [5, 2, 8, 1]
    return PagedBatch(
        query_start_loc=torch.tensor([0, length], dtype=torch.int32),
        seq_lens=torch.tensor([start + length], dtype=torch.int32),
        block_table=torch.tensor([table], dtype=torch.int32),
        slot_mapping=torch.tensor([table[p // 4] * 4 + p % 4 for p in range(start, start + length)]),
        max_query_len=length,
        max_seq_len=start + length,
    )


def logits_of(folder, shard=WHOLE, group=None, cache_dtype=torch.float32):
    """Logits of TOKENS, in two chunks."""
    backend = select_backend("cpu", CPU)
    info = read_model_info(folder)
    decoder = load_decoder(info, backend, device=CPU, dtype=torch.float32, shard=shard, group=group)
    caches = allocate_caches(decoder.cache_shapes, 10, 4, device=CPU, dtype=cache_dtype)
    rows, start = [], 0
    for length in (9, 5):
        ids = torch.tensor(TOKENS[start : start + length])
        positions = torch.arange(start, start + length)
        rows.append(decoder.forward(ids, positions, batch_of(start, length), caches, torch.arange(length)))
        start += length
    return torch.cat(rows)


def divided_logits(folder, size, **settings):
    """The same by `size` ranks, of each rank."""
    group = Threads(size)

    def run(rank):
        group.enter(rank)
        return logits_of(folder, Shard(rank, size), group, **settings)

    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(run, range(size)))


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("name", "changes"), MODELS.values(), ids=MODELS.keys())
def test_ranks_together_compute_what_one_computes_alone(make_model, name, changes, size):
    """Two ranks with a KV head each, and four that have each head twice; 199 tokens are a multiple of neither."""
    folder = make_model(name, **changes)
    expected = logits_of(folder)
    for logits in divided_logits(folder, size):
        torch.testing.assert_close(logits, expected, rtol=2e-5, atol=2e-5 * expected.abs().max().item())


@pytest.mark.parametrize("cache", [torch.float8_e4m3fn, torch.int8], ids=str)
def test_ranks_over_caches_in_eight_bits(make_model, cache):
    """A scale is a head's own, so that it is the same on the rank that has the head; four ranks have each twice. Sums
    of other order move a number across a rounding here and there.
    """
    folder = make_model("Llama")
    expected = logits_of(folder, cache_dtype=cache)
    assert not torch.equal(expected, logits_of(folder))
    for size in (2, 4):
        for logits in divided_logits(folder, size, cache_dtype=cache):
            torch.testing.assert_close(logits, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())


def test_a_rank_reads_its_own_part_of_a_weight(make_model):
    folder = make_model("Phi3", pad_token_id=0)
    info = read_model_info(folder)
    source = open_weights(info, info.decoder)
    name = "model.layers.0.mlp.gate_up_proj.weight"
    cut = Cut((Span(96, 24, 48), Span(96, 24, 48)), whole(64))
    full = source.load(name)
    assert source.shape(name) == cut.shape == (192, 64)
    assert torch.equal(source.load(name, cut), torch.cat([full[24:48], full[96 + 24 : 96 + 48]]))
    columns = Cut((whole(192),), Span(64, 16, 32))
    assert torch.equal(source.load(name, columns), full[:, 16:32])


def test_heads_that_are_fewer_than_ranks_are_on_equally_many_of_them():
    assert [Shard(rank, 4).share(2, 16) for rank in range(4)] == [
        Span(32, 0, 16), Span(32, 0, 16), Span(32, 16, 32), Span(32, 16, 32),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "changes", "size", "message"),
    [
        ("Llama", {}, 3, "--tensor-parallel-size 3 does not divide num_attention_heads = 4 of "),
        ("Llama", {"intermediate_size": 90}, 4, "--tensor-parallel-size 4 does not divide intermediate_size = 90 of "),
        (
            "Llama",
            {"hidden_size": 96, "num_attention_heads": 12, "num_key_value_heads": 3},
            2,
            "--tensor-parallel-size 2 neither divides num_key_value_heads = 3 of .* nor is it a multiple",
        ),
        (
            "Mixtral",
            {"num_local_experts": 2, "intermediate_size": 90},
            4,
            "--tensor-parallel-size 4 does not divide the experts' intermediate size = 90 of ",
        ),
        ("GPT2", {}, 2, "--tensor-parallel-size 2: GPT2LMHeadModel is computed by transformers' own code"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_both_numbers(tmp_path, name, changes, size, message):
    import transformers

    config = {"num_attention_heads": 4, "num_key_value_heads": 2, "hidden_size": 64, "intermediate_size": 96, **changes}
    config_class = getattr(transformers, f"{name}Config")
    model = config_class(**config, architectures=["GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"])
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(InvalidArgument, match=message):
        check_divisible(read_model_info(tmp_path), size)

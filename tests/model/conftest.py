"""Tiny models of every served architecture, and a driver that runs a runner without an engine."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Protocol

import pytest
import torch

from octavo_kernels.select import select_backend
from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner.torch_runner import TorchRunner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from octavo_runtime.runner.base import Runner

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 199,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
}


class MakeModel(Protocol):
    def __call__(self, name: str, **changes: object) -> Path: ...


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> MakeModel:
    """Save a small random model of transformers' class `name` + "ForCausalLM" and return its folder."""
    import transformers

    def make(name: str, *, max_shard_size: str = "1GB", **changes: object) -> Path:
        torch.manual_seed(7)
        model_class = getattr(transformers, f"{name}ForCausalLM")
        model = model_class(model_class.config_class(**{**SHAPE, "initializer_range": 0.3, **changes}))
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith(("norm.weight", "bias")):  # fresh ones are all 1 or 0 and would hide a mix-up
                torch.nn.init.normal_(parameter, mean=0.8, std=0.4)
        folder = tmp_path_factory.mktemp(name.lower())
        model.save_pretrained(folder, max_shard_size=max_shard_size)
        return folder

    return make


def load_runner(path: Path, backend: str = "cpu", num_blocks: int = 96, block_size: int = 4) -> TorchRunner:
    info = read_model_info(path)
    decoder = load_decoder(info, select_backend(backend, CPU), device=CPU, dtype=torch.float32)
    return TorchRunner(decoder, num_blocks=num_blocks, block_size=block_size, device=CPU, dtype=torch.float32)


@pytest.fixture
def runner_of() -> Callable[..., TorchRunner]:
    return load_runner


class GreedyDriver:
    """Generates greedily for several prompts at once, a few tokens of each per step, with scattered blocks."""

    def __init__(self, runner: Runner, chunk: int) -> None:
        self._runner = runner
        self._chunk = chunk
        order = torch.randperm(runner.num_blocks, generator=torch.Generator().manual_seed(3)).tolist()
        self._free = order
        self._tables: list[list[int]] = []

    def generate(
        self, prompts: Sequence[Sequence[int]], count: int, end: frozenset[int] = frozenset()
    ) -> list[list[int]]:
        """Up to `count` new tokens for each prompt; an end token is the last of its sequence."""
        sequences = [list(prompt) for prompt in prompts]
        computed = [0] * len(prompts)
        self._tables = [[] for _ in prompts]
        wanted = [len(prompt) + count for prompt in prompts]
        live = list(range(len(prompts)))
        while live:
            self._step(live, sequences, computed)
            live = [i for i in live if len(sequences[i]) < wanted[i] and not self._ended(sequences[i], prompts[i], end)]
        return [sequence[len(prompt) :] for sequence, prompt in zip(sequences, prompts, strict=True)]

    @staticmethod
    def _ended(sequence: list[int], prompt: Sequence[int], end: frozenset[int]) -> bool:
        return len(sequence) > len(prompt) and sequence[-1] in end

    def _step(self, live: list[int], sequences: list[list[int]], computed: list[int]) -> None:
        spans = {i: range(computed[i], min(len(sequences[i]), computed[i] + self._chunk)) for i in live}
        for i, span in spans.items():
            while len(self._tables[i]) * self._runner.block_size < span.stop:
                self._tables[i].append(self._free.pop())
            computed[i] = span.stop
        sampled = [row for row, i in enumerate(live) if computed[i] == len(sequences[i])]
        ends = list(accumulate(len(spans[i]) for i in live))
        result = self._runner.execute(
            FlatBatch(
                token_ids=[sequences[i][position] for i in live for position in spans[i]],
                positions=[position for i in live for position in spans[i]],
                slot_mapping=[self._slot(i, position) for i in live for position in spans[i]],
                query_start_loc=[0, *ends],
                seq_lens=[spans[i].stop for i in live],
                block_tables=[self._tables[i] for i in live],
                sample_rows=[ends[row] - 1 for row in sampled],
                sampling=[SamplingRow(0.0, 1.0, 0, 0, computed[live[row]]) for row in sampled],
            )
        )
        for row, token in zip(sampled, result.tokens, strict=True):
            sequences[live[row]].append(token)

    def _slot(self, i: int, position: int) -> int:
        size = self._runner.block_size
        return self._tables[i][position // size] * size + position % size


@pytest.fixture
def drive() -> Callable[..., list[list[int]]]:
    """`drive(runner, prompts, count, chunk=…, end=…)`: greedy tokens by the runner."""

    def run(
        runner: Runner,
        prompts: Sequence[Sequence[int]],
        count: int,
        *,
        chunk: int = 1 << 30,
        end: frozenset[int] = frozenset(),
    ) -> list[list[int]]:
        return GreedyDriver(runner, chunk).generate(prompts, count, end)

    return run

"""`octavo compile`: the Triton kernels that a model's steps launch, compiled without a GPU into a folder for an image.

The model's own code takes a few steps with shapes alone (outline.py), as the runner would: decodes, drafts, prefills,
and the choice of tokens. Each launch is compiled for each architecture and not run (octavo_kernels/shipping).
"""

from __future__ import annotations

import logging
import subprocess
from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.draws import Changes, Draws
from octavo_kernels.shipping import launcher
from octavo_kernels.shipping.rehearsal import rehearsing
from octavo_kernels.triton.backend import TritonBackend
from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.outline import NOWHERE, outline
from octavo_runtime.runner.buffers import StepBuffers
from octavo_runtime.runner.machine import choose_cache_dtype, choose_dtype
from octavo_runtime.runner.torch_runner import allocate_caches

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.decoder import Decoder

logger = logging.getLogger(__name__)

QUERIES: Final = (1, 2, 5, 8, 64)
"""Lengths that the table of launches tells apart: a decode, drafts, a prefill."""
_SEQUENCES: Final = (1, 16, 3)
"""Triton compiles anew for a number that is 1, a multiple of 16, or neither."""
_GREEDY: Final = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)


def compile_kernels(config: ServeConfig, architectures: Sequence[int], folder: Path) -> None:
    """Compiles into `folder` what `config.model` launches on GPUs of `architectures`, such as 90 for an H100.

    The model's configuration is enough; no weight is read. Raises `ModelUnsupported` for a model that transformers'
    code computes.
    """
    info = read_model_info(config.model, weights=False)
    if info.decoder is None:
        raise ModelUnsupported(f"{config.model}: {info.architecture} is computed by transformers' own code")
    dtype = choose_dtype(config.dtype, info, NOWHERE)
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, dtype, NOWHERE)
    backend = TritonBackend()
    folder.mkdir(parents=True, exist_ok=True)
    for architecture in architectures:
        with rehearsing(architecture, folder):
            for decoder in outline(info, backend, dtype=dtype, ranks=config.tensor_parallel_size):
                _take_steps(decoder, config.block_size, cache_dtype)
            _choose_tokens(backend, info.vocab_size)
        count = sum(1 for _ in folder.glob("*/*.cubin"))
        logger.info("compiled for sm_%d: %d kernels so far", architecture, count)
    _add_launcher(folder)


def _take_steps(decoder: Decoder, block_size: int, cache_dtype: torch.dtype) -> None:
    caches = allocate_caches(decoder.cache_shapes, 64, block_size, device=NOWHERE, dtype=cache_dtype)
    buffers = StepBuffers(_NoMemory())
    for queries in QUERIES:
        for sequences in _SEQUENCES:
            inputs = buffers.fill(_step(queries, sequences, block_size))
            decoder.forward(inputs.token_ids, inputs.positions, inputs.batch, caches, inputs.sample_rows)


def _step(queries: int, sequences: int, block_size: int) -> FlatBatch:
    tokens = queries * sequences
    return FlatBatch(
        token_ids=[0] * tokens,
        positions=[0] * tokens,
        slot_mapping=[0] * tokens,
        query_start_loc=list(range(0, tokens + 1, queries)),
        seq_lens=[queries] * sequences,
        block_tables=[[0] * -(-queries // block_size)] * sequences,
        sample_rows=list(range(queries - 1, tokens, queries)),
        sampling=[_GREEDY] * sequences,
    )


def _choose_tokens(backend: TritonBackend, vocab_size: int) -> None:
    for rows in _SEQUENCES:
        logits = torch.empty(rows, vocab_size, device=NOWHERE)
        real, whole = torch.empty(rows, device=NOWHERE), torch.empty(rows, dtype=torch.int64, device=NOWHERE)
        backend.adjust(logits, Changes(whole, real, real, real))
        backend.draw(logits, Draws(real, real, real, whole, whole))


class _NoMemory:
    """A device whose tensors have addresses and no values."""

    def host(self, size: int) -> torch.Tensor:
        return torch.zeros(size, dtype=torch.uint8)

    def device(self, size: int) -> torch.Tensor:
        return torch.empty(size, dtype=torch.uint8, device=NOWHERE)

    def start_copy(self, host: torch.Tensor, device: torch.Tensor) -> Callable[[], object]:
        return lambda: (host, device)


def _add_launcher(folder: Path) -> None:
    """Beside the kernels, unless it is there; where no compiler is, the image's own serves (Containerfile)."""
    if (folder / launcher.NAME).is_file():
        return
    try:
        launcher.build(folder)
    except (OSError, subprocess.CalledProcessError) as error:
        logger.warning("no C compiler here, so the launcher is not among them: %s", error)

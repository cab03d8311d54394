"""Computes steps with torch: ints in, the decoder's pass, ints out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.cache_dtype import cache_shape
from octavo_runtime.core.batch import StepResult
from octavo_runtime.model.decoder import LayerCache
from octavo_runtime.runner.buffers import StepBuffers
from octavo_runtime.runner.cuda import PinnedMemory
from octavo_runtime.runner.graphs import DecodeGraphs
from octavo_runtime.runner.launched import Done, UnderWay, is_described, put_carried
from octavo_runtime.runner.logprobs import describe
from octavo_runtime.runner.machine import choose_step_tokens
from octavo_runtime.runner.sampler import choose, pick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.core.batch import FlatBatch, ScoreRow, TokenLogprobs
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.model.spec import CacheShape
    from octavo_runtime.runner.base import Launched
    from octavo_runtime.runner.buffers import Memory, StepInputs
    from octavo_runtime.runner.graphs import Capturer, GraphLimits

SCORE_ROWS: Final = 64  # of a prompt at a time: the logits of 2,048 rows of a large vocabulary would be 1.2 GB

CAREFUL_STEPS: Final = 256  # after a launch that came to nothing, which costs two steps


class TorchRunner:
    """Implements `Runner`: a decoder with its KV cache."""

    def __init__(
        self,
        decoder: AnyDecoder,
        *,
        num_blocks: int,
        block_size: int,
        device: torch.device,
        dtype: torch.dtype,
        kernels: KernelBackend | None = None,
    ) -> None:
        """Allocates `num_blocks` blocks of `block_size` tokens for every layer on `device`; `dtype` is the cache's.
        `kernels` choose the tokens; None: torch does.
        """
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.step_tokens = choose_step_tokens(device)
        self._decoder = decoder
        self._kernels = kernels
        self.device = device
        self.computes_apart = device.type == "cuda"
        self._sampled: torch.Tensor | None = None  # tokens of the step launched last, on the device; None: it raised
        self._careful_steps = 0  # still to be launched
        self._caches = allocate_caches(decoder.cache_shapes, num_blocks, block_size, device=device, dtype=dtype)
        self._buffers = StepBuffers(memory_of(device))
        self._graphs: DecodeGraphs | None = None

    def capture_decodes(self, limits: GraphLimits, capturer: Capturer, memory: Memory) -> None:
        """From now on compute steps within `limits` as graphs."""
        self._graphs = DecodeGraphs(limits, self._forward, capturer, memory=memory, device=self.device)

    def execute(self, batch: FlatBatch) -> StepResult:
        """Run one step. Raises `FloatingPointError` when a sequence's logits are not numbers."""
        return self._compute(batch, self._inputs(batch))

    @torch.inference_mode()
    def launch(self, batch: FlatBatch) -> Launched:
        """Begin one step. Its tokens stay on the device, for the next one, until somebody waits for them. With log
        probabilities to give, it is computed here and now.
        """
        inputs = self._inputs(batch)
        sampled, self._sampled = self._sampled, None
        put_carried(inputs.token_ids, batch, sampled)
        if is_described(batch):
            result = self._compute(batch, inputs)
            self._sampled = torch.tensor(result.tokens, dtype=torch.int64, device=self.device)
            return Done(result)
        logits = self._logits(inputs)[: len(batch.sampling)]
        choice = pick(logits, batch.sampling, surely=self._careful_steps > 0, kernels=self._kernels)
        self._careful_steps = max(self._careful_steps - 1, 0)
        self._sampled = choice.tokens
        return UnderWay(choice, self._be_careful)

    def _be_careful(self) -> None:
        """A launched step came to nothing, and the one after it: for a while, rather wait while one is launched."""
        self._careful_steps = CAREFUL_STEPS

    def _inputs(self, batch: FlatBatch) -> StepInputs:
        padded = self._graphs.fill(batch) if self._graphs is not None else None
        return self._buffers.fill(batch) if padded is None else padded

    def _compute(self, batch: FlatBatch, inputs: StepInputs) -> StepResult:
        if not batch.scoring:
            return self._chosen(self._logits(inputs)[: len(batch.sampling)], batch)
        asked = [batch.scoring[at : at + SCORE_ROWS] for at in range(0, len(batch.scoring), SCORE_ROWS)]
        pieces = [inputs.sample_rows, *torch.split(inputs.score_rows, SCORE_ROWS)]
        logits = self._decoder.forward_pieces(inputs.token_ids, inputs.positions, inputs.batch, self._caches, pieces)
        result = self._chosen(next(logits), batch)
        return replace(result, scores=[score for piece in map(_scores, logits, asked) for score in piece])

    def _chosen(self, logits: Tensor, batch: FlatBatch) -> StepResult:
        return StepResult(*choose(logits, batch.sampling, self._kernels)) if batch.sampling else StepResult([])

    def _logits(self, inputs: StepInputs) -> Tensor:
        """Of `inputs`' sample rows, and of padding after them."""
        if self._graphs is not None and inputs.padded:
            return self._graphs.compute(inputs)
        return self._forward(inputs)

    def _forward(self, inputs: StepInputs) -> Tensor:
        return self._decoder.forward(inputs.token_ids, inputs.positions, inputs.batch, self._caches, inputs.sample_rows)


def memory_of(device: torch.device) -> Memory | None:
    """None where the host's memory is the device's."""
    return None if device.type == "cpu" else PinnedMemory(device)


def _scores(logits: Tensor, asked: Sequence[ScoreRow]) -> list[TokenLogprobs]:
    return describe(logits, [score.token for score in asked], [score.top for score in asked])


def allocate_caches(
    shapes: Sequence[CacheShape], num_blocks: int, block_size: int, *, device: torch.device, dtype: torch.dtype
) -> list[LayerCache]:
    """Caches for all layers, not filled: attention reads no slot that was not written (`KernelBackend.attend`), and on
    a CPU the system hands out a page of memory only when it is first touched.
    """

    def cache(shape: CacheShape) -> torch.Tensor:
        size = cache_shape(num_blocks, shape.num_kv_heads, block_size, shape.head_dim, dtype)
        return torch.empty(size, device=device, dtype=dtype)

    return [LayerCache(cache(shape), cache(shape)) for shape in shapes]

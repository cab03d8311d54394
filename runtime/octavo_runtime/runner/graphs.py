"""Decode steps as CUDA graphs: a step is launched as a whole, where its hundreds of kernels would take the host longer
than they take the device.

    step of 5 sequences, longest block table 70       graph (8, 256)
    ┌─────────────┐  fill, one copy   ┌─────────────────────────┐  replay   ┌──────────────────┐
    │ a b c d e   │ ────────────────> │ a b c d e · · ·         │ ────────> │ logits of 8 rows │ ──> the first 5
    └─────────────┘                   └─────────────────────────┘           └──────────────────┘
                                       always at the same address            always at the same address

Captured when a shape is first met, not at start: most shapes never are. A padding row (·) is a sequence without a
query: it stores nothing, no tile of attention is its own, and nobody looks at its logits.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, Protocol

import torch

from octavo_runtime.errors import InvalidArgument
from octavo_runtime.runner.buffers import StepBuffers, StepShape, shape_of, size_of, table_width

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.batch import FlatBatch
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.runner.buffers import Memory, StepInputs

logger = logging.getLogger(__name__)

MOST_ROWS: Final = 256  # where nothing else is asked for: from there on the device is the slower one
_STEP: Final = 8  # rows from one graph to the next larger one
_LOGITS_KEPT: Final = 3  # copies of a step's logits: ours, and in the graphs' own memory in fp32 and as computed


class Capturer(Protocol):
    def capture(self, compute: Callable[[], object]) -> Callable[[], object]:
        """Record what `compute` does to the device, after having computed it once; returns what does it again.

        Raises `RuntimeError` when that is not possible, for lack of memory for example.
        """
        ...


@dataclass(frozen=True, slots=True)
class GraphLimits:
    """Which steps are captured."""

    rows: int  # sequences
    blocks: int  # of the longest sequence
    vocab_size: int

    @property
    def width(self) -> int:
        return table_width(self.blocks)

    def within(self, num_blocks: int) -> GraphLimits:
        """For a KV cache of so many blocks, which no sequence can have more of."""
        return replace(self, blocks=min(self.blocks, num_blocks))

    @property
    def memory(self) -> int:
        """Bytes on the device that graphs keep, about: what the KV cache must leave."""
        return size_of(graph_shape(self.rows, self.width)) + _LOGITS_KEPT * 4 * self.rows * self.vocab_size


def graph_rows(count: int) -> int:
    """Rows of the graph that a step of `count` sequences takes: 1, 2, 4, 8, 16, 24, 32, …"""
    for rows in (1, 2, 4):
        if count <= rows:
            return rows
    return -(-count // _STEP) * _STEP


def graph_shape(rows: int, width: int) -> StepShape:
    return StepShape(tokens=rows, sequences=rows, width=width, samples=rows)


def why_eager(config: ServeConfig, info: ModelInfo, device: torch.device, backend: KernelBackend) -> str | None:
    """The reason for which steps are not captured, as a clause; None when they are."""
    mixture = info.decoder is not None and info.decoder.mixture is not None
    reasons = {
        f"the device is {device}": device.type != "cuda",
        "--enforce-eager was given": config.enforce_eager,
        "the sums over ranks are not captured": config.tensor_parallel_size > 1,
        f"the attention backend {backend.name!r} reads lengths on the host": backend.name != "triton",
        f"{info.architecture} is computed by transformers' code": info.decoder is None,
        "the host reads which experts a step needs": mixture,
    }
    return next((reason for reason, holds in reasons.items() if holds), None)


def choose_limits(
    config: ServeConfig, info: ModelInfo, device: torch.device, backend: KernelBackend
) -> GraphLimits | None:
    """None where steps are eager. Raises `InvalidArgument` when a size was asked for and nothing can be captured."""
    reason, asked = why_eager(config, info, device, backend), config.max_cudagraph_capture_size
    if reason is not None:
        if asked is not None:
            raise InvalidArgument(f"--max-cudagraph-capture-size {asked}: no step can be captured, since {reason}")
        logger.info("no CUDA graphs: %s", reason)
        return None
    rows = min(graph_rows(config.max_num_seqs), asked or MOST_ROWS)
    longest = min(config.max_model_len or info.max_positions, info.max_positions)
    return GraphLimits(rows, -(-longest // config.block_size), info.vocab_size)


class DecodeGraphs:
    """Computes steps in which every sequence has one token."""

    def __init__(
        self,
        limits: GraphLimits,
        forward: Callable[[StepInputs], Tensor],
        capturer: Capturer,
        *,
        memory: Memory,
        device: torch.device,
    ) -> None:
        """`forward` gives the logits of a step's sample rows, `[rows, vocab_size]` fp32 on `device`, and touches the
        host for nothing but shapes.
        """
        self._limits = limits
        self._forward = forward
        self._capturer = capturer
        self._buffers = StepBuffers(memory, size_of(graph_shape(limits.rows, limits.width)))
        self._logits = torch.empty(limits.rows, limits.vocab_size, device=device)
        self._replays: dict[StepShape, Callable[[], object]] = {}
        self._works = True

    def fill(self, batch: FlatBatch) -> StepInputs | None:
        """The step's inputs, padded, where the graphs read them; None when it is not one for them."""
        shape = self._fit(batch)
        return None if shape is None else self._buffers.fill(batch, shape)

    def compute(self, inputs: StepInputs) -> Tensor:
        """Logits of all rows of what `fill` gave, padding too. Valid until the next step, which may overwrite them."""
        replay = self._replays.get(inputs.shape) or self._capture(inputs)
        if replay is None:
            return self._forward(inputs)
        replay()
        return self._logits[: inputs.shape.sequences]

    def _fit(self, batch: FlatBatch) -> StepShape | None:
        own = shape_of(batch)
        rows = graph_rows(own.sequences)
        fits = own.tokens == own.sequences and rows <= self._limits.rows and own.width <= self._limits.width
        return graph_shape(rows, own.width) if self._works and fits and not own.scores else None

    def _capture(self, inputs: StepInputs) -> Callable[[], object] | None:
        """None when it fails, which is the end of all graphs: what failed for lack of memory would fail again, and
        those that are there hold memory that somebody lacks.
        """
        if not self._works:
            return None
        out = self._logits[: inputs.shape.sequences]
        try:
            replay = self._capturer.capture(lambda: out.copy_(self._forward(inputs)))
        except RuntimeError as error:
            logger.warning("no CUDA graphs any more, steps are eager: a capture of %s failed: %s", inputs.shape, error)
            self._works = False
            self._replays.clear()
            return None
        self._replays[inputs.shape] = replay
        return replay

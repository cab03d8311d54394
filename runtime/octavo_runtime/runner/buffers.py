"""A step's inputs in one piece of memory: one copy to the device, and nothing allocated once the largest step was seen.

    bytes   0        8 T       16 T          24 T
            token_ids positions slot_mapping  sample_rows score_rows   query_start_loc seq_lens block_table
            int64, each field at a multiple of 16 bytes                int32

The host fills one of two such pieces while the copy of the other may still be under way, and waits for that copy
before it fills it again. The device has one: the next step's copy comes after this step's kernels, in the stream's
order. On a CPU the host's memory is the device's, and nothing is copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import numpy as np
import torch

from octavo_kernels.interface import PagedBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch import Tensor

    from octavo_runtime.core.batch import FlatBatch

_ALIGNMENT: Final = 16  # bytes; Triton compiles a kernel anew for a pointer that is not so aligned
_LEAST_WIDTH: Final = 64
_MOST_SHAPES: Final = 64  # whose views are kept, since decodes come in few shapes


class StepShape(NamedTuple):
    """How large a step's fields are."""

    tokens: int
    sequences: int
    width: int  # entries of each block table
    samples: int
    scores: int = 0


class Field(NamedTuple):
    """Where a field lies."""

    start: int  # byte
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def end(self) -> int:
        return self.start + math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True)
class StepInputs:
    """What a decoder's `forward` takes, on the device, for all that is computed or launched before the next `fill`."""

    shape: StepShape
    padded: bool  # the shape was asked for, and may be larger than the step
    token_ids: Tensor  # [T] int64
    positions: Tensor  # [T] int64
    sample_rows: Tensor  # int64
    score_rows: Tensor  # int64
    batch: PagedBatch


class Memory(Protocol):
    """A device with memory of its own, and how what the host fills in gets there."""

    def host(self, size: int) -> Tensor:
        """`size` bytes for the host to write, uint8."""
        ...

    def device(self, size: int) -> Tensor:
        """`size` bytes on the device, uint8."""
        ...

    def start_copy(self, host: Tensor, device: Tensor) -> Callable[[], object]:
        """Begin to copy; returns what waits until `host` may be written again."""
        ...


def table_width(num_blocks: int) -> int:
    """Entries of a block table for `num_blocks`: 64, 256, 1024, …, so that kernels and graphs see few widths."""
    width = _LEAST_WIDTH
    while width < num_blocks:
        width *= 4
    return width


def shape_of(batch: FlatBatch) -> StepShape:
    return StepShape(
        tokens=len(batch.token_ids),
        sequences=len(batch.seq_lens),
        width=table_width(max(map(len, batch.block_tables))),
        samples=len(batch.sample_rows),
        scores=len(batch.scoring),
    )


def lay_out(shape: StepShape) -> dict[str, Field]:
    """The fields one after the other, in the order of the picture above."""
    sizes: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = {
        "token_ids": ((shape.tokens,), torch.int64),
        "positions": ((shape.tokens,), torch.int64),
        "slot_mapping": ((shape.tokens,), torch.int64),
        "sample_rows": ((shape.samples,), torch.int64),
        "score_rows": ((shape.scores,), torch.int64),
        "query_start_loc": ((shape.sequences + 1,), torch.int32),
        "seq_lens": ((shape.sequences,), torch.int32),
        "block_table": ((shape.sequences, shape.width), torch.int32),
    }
    fields: dict[str, Field] = {}
    end = 0
    for name, (size, dtype) in sizes.items():
        fields[name] = Field(-(-end // _ALIGNMENT) * _ALIGNMENT, size, dtype)
        end = fields[name].end
    return fields


def size_of(shape: StepShape) -> int:
    """Bytes."""
    return lay_out(shape)["block_table"].end


class StepBuffers:
    """The two pieces of the host, in turn, and the device's one. They grow with the largest step."""

    def __init__(self, memory: Memory | None = None, size: int = 0) -> None:
        """`memory` is a GPU's. `size`: bytes to have from the start; the device's addresses stay as long as no step
        needs more.
        """
        self._memory = memory
        self._size = 0
        self._turn = 0
        self._grow(size)

    def fill(self, batch: FlatBatch, shape: StepShape | None = None) -> StepInputs:
        """`batch` on the device. With a `shape` larger than its own, the rest are sequences without a query, and
        tokens that belong to none and are not stored.
        """
        padded, shape = shape is not None, shape or shape_of(batch)
        size = size_of(shape)
        self._turn = 1 - self._turn
        self._grow(size)
        lane = self._lanes[self._turn]
        lane.wait()
        arrays, tensors = self._views(lane, shape)
        _write(arrays, batch)
        if self._memory is not None and self._device is not None:
            lane.wait = self._memory.start_copy(lane.host[:size], self._device[:size])
        return _inputs(shape, tensors, batch, padded=padded)

    @torch.inference_mode(mode=False)  # else what is allocated in a step could not be written outside of one
    def _grow(self, size: int) -> None:
        if size <= self._size and self._size:
            return
        self._size = max(size, 2 * self._size, 1 << 12)
        allocate = self._memory.host if self._memory else _plain_memory
        self._lanes = [_Lane(allocate(self._size)) for _ in range(2)]
        self._device = self._memory.device(self._size) if self._memory else None

    def _views(self, lane: _Lane, shape: StepShape) -> _Views:
        views = lane.views.get(shape)
        if views is None:
            if len(lane.views) == _MOST_SHAPES:
                lane.views.clear()
            views = lane.views[shape] = _make_views(lane.host, self._device, shape)
        return views


class _Views(NamedTuple):
    arrays: dict[str, np.ndarray]  # of the host's memory, to be filled
    tensors: dict[str, Tensor]  # of the device's


class _Lane:
    """One of the host's two pieces."""

    def __init__(self, host: Tensor) -> None:
        self.host = host
        self.wait: Callable[[], object] = _nothing  # until the last copy out of it is done
        self.views: dict[StepShape, _Views] = {}


def _plain_memory(size: int) -> Tensor:
    return torch.empty(size, dtype=torch.uint8)


def _nothing() -> None:
    pass


def _make_views(host: Tensor, device: Tensor | None, shape: StepShape) -> _Views:
    fields = lay_out(shape).items()
    whole = host if device is None else device
    return _Views(
        {name: _view(host, field).numpy() for name, field in fields},
        {name: _view(whole, field) for name, field in fields},
    )


def _view(memory: Tensor, field: Field) -> Tensor:
    return memory[field.start : field.end].view(field.dtype).view(field.shape)


def _write(arrays: Mapping[str, np.ndarray], batch: FlatBatch) -> None:
    """Block tables keep what was there past a sequence's own blocks: nobody reads it."""
    _put(arrays["token_ids"], batch.token_ids, 0)
    _put(arrays["positions"], batch.positions, 0)
    _put(arrays["slot_mapping"], batch.slot_mapping, -1)
    _put(arrays["sample_rows"], batch.sample_rows, 0)
    _put(arrays["score_rows"], [score.row for score in batch.scoring], 0)
    _put(arrays["query_start_loc"], batch.query_start_loc, batch.query_start_loc[-1])
    _put(arrays["seq_lens"], batch.seq_lens, 0)
    _put_tables(arrays["block_table"], batch.block_tables)


def _put(array: np.ndarray, values: Sequence[int], rest: int) -> None:
    array[: len(values)] = values
    array[len(values) :] = rest


def _put_tables(array: np.ndarray, tables: Sequence[list[int]]) -> None:
    """All at once: hundreds of tables written one by one take twice as long."""
    lengths = np.fromiter(map(len, tables), np.int64, len(tables))
    entries = np.fromiter(chain.from_iterable(tables), np.int32, int(lengths.sum()))
    array[: len(tables)][np.arange(array.shape[1]) < lengths[:, None]] = entries


def _inputs(shape: StepShape, tensors: Mapping[str, Tensor], batch: FlatBatch, *, padded: bool) -> StepInputs:
    return StepInputs(
        shape=shape,
        padded=padded,
        token_ids=tensors["token_ids"],
        positions=tensors["positions"],
        sample_rows=tensors["sample_rows"],
        score_rows=tensors["score_rows"],
        batch=PagedBatch(
            query_start_loc=tensors["query_start_loc"],
            seq_lens=tensors["seq_lens"],
            block_table=tensors["block_table"],
            slot_mapping=tensors["slot_mapping"],
            max_query_len=max(end - start for start, end in pairwise(batch.query_start_loc)),
            max_seq_len=max(batch.seq_lens),
        ),
    )

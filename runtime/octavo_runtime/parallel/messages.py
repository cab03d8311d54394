"""What rank 0 and a worker say to each other over their pipe, as msgpack. Nothing is ever unpickled."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from octavo_runtime.config import ServeConfig  # noqa: TC001  msgspec reads the annotations at run time
from octavo_runtime.core.batch import FlatBatch, SamplingRow


class WorkerArgs(msgspec.Struct, frozen=True):
    """A worker's command line."""

    config: ServeConfig
    rank: int
    store_port: int  # on the loopback address, where the ranks find each other
    pipe_fd: int
    parent_pid: int


class Allocate(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Make a KV cache of so many blocks, in place of the one that is there."""

    num_blocks: int


class Measure(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Drop the KV cache and say how much memory is free beyond what the steps on it have taken."""


class Compute(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Take part in a step."""

    batch: FlatBatch


class Loaded(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The worker has its part of the weights."""


class Free(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The answer to `Measure`."""

    memory: int  # bytes


class Refused(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The worker cannot start and ends. `reason` names a class of errors.StartError."""

    reason: str
    message: str


ToWorker = Allocate | Measure | Compute
FromWorker = Loaded | Free | Refused

_GREEDY: Final = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)


def for_workers(batch: FlatBatch) -> FlatBatch:
    """The batch with all that decides which numbers are computed, and without what only chooses among them."""
    return replace(batch, sampling=[_GREEDY] * len(batch.sampling))

"""What rank 0 says to the other ranks and they to it, as msgpack. Nothing is ever unpickled.

Over a pipe to a rank of its own node, over TCP to another node, which passes it on to its ranks and answers for them.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import msgspec

from octavo_runtime.config import ServeConfig  # noqa: TC001  msgspec reads the annotations at run time
from octavo_runtime.core.batch import FlatBatch, SamplingRow


class Meeting(msgspec.Struct, frozen=True, array_like=True):
    """Where the ranks of one engine find each other. A rank of an earlier one may come, and finds nobody."""

    address: str
    port: int
    incarnation: str  # of the group: another each time that an engine starts


class WorkerArgs(msgspec.Struct, frozen=True):
    """A worker's command line."""

    config: ServeConfig
    rank: int
    meeting: Meeting
    interface: str | None  # the network interface of their collectives; None: what the library chooses
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


class Lost(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A rank of this node has ended, so the node does."""

    message: str


ToWorker = Allocate | Measure | Compute
FromWorker = Loaded | Free | Refused
FromNode = FromWorker | Lost

_GREEDY: Final = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=0)


def for_workers(batch: FlatBatch) -> FlatBatch:
    """The batch with all that decides which numbers are computed, and without what only chooses among them."""
    return replace(batch, sampling=[_GREEDY] * len(batch.sampling))

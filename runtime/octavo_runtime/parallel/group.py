"""The ranks' collectives by torch.distributed: NCCL between GPUs, gloo between processes on a CPU."""

from __future__ import annotations

import os
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

if TYPE_CHECKING:
    import socket

    from torch import Tensor

    from octavo_runtime.model.shard import Shard
    from octavo_runtime.parallel.messages import Meeting

_PATIENCE: Final = timedelta(minutes=30)  # with a rank that hangs; who is dead is noticed at once


def open_store(room: socket.socket, meeting: Meeting, size: int) -> TCPStore:
    """Rank 0's end of where the ranks find each other. `room` listens there."""
    return TCPStore(
        meeting.address, meeting.port, size, is_master=True, timeout=_PATIENCE, wait_for_workers=False,
        master_listen_fd=room.detach(),
    )  # fmt: skip


def reach_store(meeting: Meeting, size: int) -> TCPStore:
    """Another rank's end of it."""
    return TCPStore(meeting.address, meeting.port, size, is_master=False, timeout=_PATIENCE, wait_for_workers=False)


def join(shard: Shard, store: TCPStore, meeting: Meeting, interface: str | None, device: torch.device) -> TorchGroup:
    """Wait until all ranks are there. What they listen on for each other is at `interface` alone, where it is known."""
    for library in ("GLOO", "NCCL"):
        if interface is not None:
            os.environ.setdefault(f"{library}_SOCKET_IFNAME", interface)
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=PrefixStore(meeting.incarnation, store),
        rank=shard.rank,
        world_size=shard.size,
        timeout=_PATIENCE,
        device_id=device if device.type == "cuda" else None,
    )
    return TorchGroup(shard.size)


class TorchGroup:
    """Implements `Collectives` by the process's default group."""

    def __init__(self, size: int) -> None:
        self.size: Final = size

    def all_reduce(self, x: Tensor) -> Tensor:
        """On a CPU the sum is made in fp32, whatever `x` is in."""
        total = x.float() if x.device.type == "cpu" else x
        dist.all_reduce(total)
        return total.to(x.dtype)

    def all_gather(self, x: Tensor) -> Tensor:
        rows, columns = x.shape
        if not rows:
            return x.new_empty(0, self.size * columns)
        parts = x.new_empty(self.size * rows, columns)
        dist.all_gather_into_tensor(parts, x.contiguous())
        return parts.view(self.size, rows, columns).transpose(0, 1).reshape(rows, self.size * columns)

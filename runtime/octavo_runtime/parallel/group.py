"""The ranks' collectives by torch.distributed: NCCL between GPUs, gloo between processes on a CPU."""

from __future__ import annotations

import os
import socket
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import torch
import torch.distributed as dist
from torch.distributed import TCPStore  # type: ignore[attr-defined]

if TYPE_CHECKING:
    from torch import Tensor

    from octavo_runtime.model.shard import Shard

_ADDRESS: Final = "127.0.0.1"
_PATIENCE: Final = timedelta(minutes=30)  # with a rank that hangs; who is dead is noticed at once


def open_store(size: int) -> TCPStore:
    """Rank 0's end of where the ranks find each other, on a free port that cannot be reached from outside."""
    listener = socket.create_server((_ADDRESS, 0))
    port = listener.getsockname()[1]
    return TCPStore(
        _ADDRESS, port, size, is_master=True, timeout=_PATIENCE, wait_for_workers=False,
        master_listen_fd=listener.detach(),
    )  # fmt: skip


def reach_store(port: int, size: int) -> TCPStore:
    """A worker's end of it."""
    return TCPStore(_ADDRESS, port, size, is_master=False, timeout=_PATIENCE, wait_for_workers=False)


def join(shard: Shard, store: TCPStore, device: torch.device) -> TorchGroup:
    """Wait until all ranks are there."""
    for library in ("GLOO", "NCCL"):
        os.environ.setdefault(f"{library}_SOCKET_IFNAME", "lo")  # else they listen where others can reach them
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=store,
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

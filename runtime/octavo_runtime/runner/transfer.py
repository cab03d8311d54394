"""Between host and device without one waiting for the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


def on_device(
    values: Sequence[int] | Sequence[float] | Sequence[Sequence[int]] | Sequence[Sequence[float]],
    device: torch.device,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """A tensor of `values`. Out of memory that is not pinned, a copy waits for all that CUDA was given before."""
    return torch.tensor(values, dtype=dtype, pin_memory=device.type == "cuda").to(device, non_blocking=True)


class HostCopy:
    """A device's tensors on their way to the host, behind all that the device was given before."""

    def __init__(self, *tensors: Tensor) -> None:
        self._tensors = [_start_copy(tensor) for tensor in tensors]
        self._done: torch.cuda.Event | None = None
        if any(tensor.device.type == "cuda" for tensor in tensors):
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def wait(self) -> list[Tensor]:
        """The tensors, on the host."""
        if self._done is not None:
            self._done.synchronize()
        return self._tensors


def _start_copy(tensor: Tensor) -> Tensor:
    if tensor.device.type != "cuda":
        return tensor
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)

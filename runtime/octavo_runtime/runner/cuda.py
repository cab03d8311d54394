"""What is asked of CUDA itself, and nothing that decides: pinned memory, copies, captures. Has not run on a GPU yet."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


class PinnedMemory:
    """Implements `buffers.Memory` on a GPU: the host's pieces are pinned, so that copies out of them do not wait."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def host(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, pin_memory=True)

    def device(self, size: int) -> Tensor:
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    def start_copy(self, host: Tensor, device: Tensor) -> Callable[[], object]:
        device.copy_(host, non_blocking=True)
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record()
        return copied.synchronize

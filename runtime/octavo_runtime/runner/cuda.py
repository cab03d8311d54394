"""What is asked of CUDA itself, and nothing that decides: copies, captures, memory. Has not run on a GPU yet."""

from __future__ import annotations

import gc
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


class CudaCapturer:
    """Implements `graphs.Capturer`. All graphs share one pool of memory, so each may overwrite what another left."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def capture(self, compute: Callable[[], object]) -> Callable[[], object]:
        current = torch.cuda.current_stream()
        try:
            self._warm_up(compute, current)
            graph = torch.cuda.CUDAGraph()
            # Other threads' calls are no business of this capture.
            with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
                compute()
        finally:
            torch.cuda.set_stream(current)  # whatever a capture that failed has left behind
        return graph.replay

    def _warm_up(self, compute: Callable[[], object], current: torch.cuda.Stream) -> None:
        """Kernels are compiled and libraries allocate what they keep, which must not happen in a capture."""
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            compute()
        current.wait_stream(self._stream)


class CudaGauge:
    """Implements `kv_cache.Gauge`. What torch holds and does not use counts as free, since it is given back first."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def free(self) -> int:
        gc.collect()
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._device)
        return free

    def peak_of(self, step: Callable[[], object]) -> int:
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        step()
        return torch.cuda.max_memory_allocated(self._device) - before


def describe_device(device: torch.device) -> tuple[str, int]:
    """Its name and its bytes of memory."""
    properties = torch.cuda.get_device_properties(device)
    return properties.name, properties.total_memory

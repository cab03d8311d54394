"""Which kernels run here. Each backend is imported only when it is chosen: Triton is slow to import and needs a GPU."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import torch

    from octavo_kernels.interface import KernelBackend

logger = logging.getLogger(__name__)

BACKENDS: Final = ("auto", "reference", "cpu", "triton")


def select_backend(name: str, device: torch.device) -> KernelBackend:
    """The backend called `name`, or for "auto" the fastest for `device`. Logs the choice and its reason.

    Raises `ValueError` for an unknown name, or one that cannot run on `device`.
    """
    chosen, reason = _choose(name, device)
    logger.info("attention backend: %s (%s)", chosen, reason)
    return _load(chosen)


def _choose(name: str, device: torch.device) -> tuple[str, str]:
    if name not in BACKENDS:
        raise ValueError(f"attention backend {name!r} is unknown; known are {', '.join(BACKENDS)}")
    if name == "auto":
        return ("triton", "a GPU is present") if device.type == "cuda" else ("cpu", f"the device is {device}")
    if name == "triton" and device.type != "cuda":
        raise ValueError(f"attention backend 'triton' needs a GPU; the device is {device}")
    if name == "cpu" and device.type != "cpu":
        raise ValueError(f"attention backend 'cpu' cannot run on {device}")
    return name, "asked for"


def _load(name: str) -> KernelBackend:
    if name == "triton":
        from octavo_kernels.shipping.shipped import use_shipped  # noqa: PLC0415
        from octavo_kernels.triton.backend import TritonBackend  # noqa: PLC0415

        use_shipped(os.environ)
        return TritonBackend()
    if name == "cpu":
        return _load_cpu()
    from octavo_kernels.reference import ReferenceBackend  # noqa: PLC0415

    return ReferenceBackend()


def _load_cpu() -> KernelBackend:
    from octavo_kernels.library import instruction_set  # noqa: PLC0415
    from octavo_kernels.native import NativeBackend, why_not_native  # noqa: PLC0415

    reason = why_not_native()
    if reason is None:
        logger.info("compiled kernels for %s", instruction_set())
        return NativeBackend()
    from octavo_kernels.cpu import CPUBackend  # noqa: PLC0415

    logger.warning("no compiled library for this CPU, computing without it, which is slower: %s", reason)
    return CPUBackend()

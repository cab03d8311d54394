"""Launches without a GPU: whatever is launched meanwhile is compiled for an architecture, and not run.

Which kernels a model needs, for which types, sizes and alignments, its own code knows best: let it take steps on the
`meta` device, and what is compiled is what a GPU would be asked for, key by key. So nothing has to be listed by hand,
and nothing listed can be out of date.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from octavo_kernels.aot.figures import SHARED_PER_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextmanager
def rehearsing(architecture: int, folder: Path) -> Iterator[None]:
    """Compiles for `architecture`, such as 90, into `folder`. Must not be entered where kernels are interpreted."""
    assert not knobs.runtime.interpret, "nothing is compiled in the interpreter"
    before, kept = knobs.cache.dir, knobs.compilation.store_binary_only
    driver.set_active(_NoGpu(architecture))
    knobs.cache.dir, knobs.compilation.store_binary_only = str(folder), True
    try:
        yield
    finally:
        knobs.cache.dir, knobs.compilation.store_binary_only = before, kept
        driver._active = None  # noqa: SLF001  reset_active would look for a GPU


class _NoGpu:
    """What Triton asks of a driver between a launch and the kernel; each architecture is a device of its own."""

    def __init__(self, architecture: int) -> None:
        self._architecture = architecture
        self.utils = SimpleNamespace(
            get_device_properties=lambda device: {"max_shared_mem": SHARED_PER_BLOCK[device]},
            load_binary=lambda *_: (None, None, 0, 0, 1024),
            unload_module=lambda _: None,
        )

    def get_current_device(self) -> int:
        return self._architecture

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self._architecture, 32)

    def launcher_cls(self, *_: Any) -> Any:  # noqa: ANN401  Triton's
        return lambda *_: None

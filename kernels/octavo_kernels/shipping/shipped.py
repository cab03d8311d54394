"""At run time: Triton takes what was compiled beforehand out of a folder that it cannot write to."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from triton import knobs
from triton.runtime import build
from triton.runtime.cache import CacheManager, FileCacheManager

from octavo_kernels.shipping import launcher

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)

VARIABLE = "OCTAVO_KERNELS"
"""The folder's name in the environment; the image sets it."""


def use_shipped(environ: Mapping[str, str]) -> None:
    """Takes the folder that the environment names, if there is one. A kernel that it lacks is compiled as ever."""
    name = environ.get(VARIABLE, "")
    folder = Path(name)
    if not name or not folder.is_dir():
        return
    ShippedCache.folder = folder
    knobs.cache.manager_class = ShippedCache
    if (folder / launcher.NAME).is_file():
        knobs.build.impl = _build
    count = sum(1 for _ in folder.glob("*/*.cubin"))
    logger.info("%d compiled kernels in %s", count, folder)


class ShippedCache(CacheManager):  # type: ignore[misc]
    """Reads the folder first; what is not there is looked for, and kept, where Triton keeps it otherwise."""

    folder: ClassVar[Path] = Path()

    def __init__(self, key: str, override: bool = False, dump: bool = False) -> None:
        self._shipped = self.folder / key
        self._arguments = (key, override, dump)

    def get_file(self, filename: str) -> str | None:
        """The path of a file of this key."""
        path = self._shipped / filename
        return str(path) if path.is_file() else self._own.get_file(filename)

    def get_group(self, filename: str) -> dict[str, str] | None:
        """The files of a kernel by name. Triton notes them with the folder of their making, which is not this one."""
        try:
            names = json.loads((self._shipped / f"__grp__{filename}").read_text())["child_paths"]
        except OSError:
            found: dict[str, str] | None = self._own.get_group(filename)
            return found
        return {name: str(self._shipped / name) for name in names}

    def put(self, data: Any, filename: str, binary: bool = True) -> str:  # noqa: ANN401  Triton's
        """Keeps a file that was not shipped."""
        path: str = self._own.put(data, filename, binary)
        return path

    def put_group(self, filename: str, group: dict[str, str]) -> str:
        """Keeps the names of a kernel's files."""
        path: str = self._own.put_group(filename, group)
        return path

    @property
    def _own(self) -> FileCacheManager:
        """Made when it is asked for: it makes its folder at once."""
        return FileCacheManager(*self._arguments)


def _build(name: str, src: str, srcdir: str, *rest: Any) -> str:  # noqa: ANN401  Triton's
    """Triton's hook for C extensions: the one that is shipped, and any other by a compiler."""
    shipped = ShippedCache.folder / launcher.NAME
    if launcher.NAME.startswith(f"{name}."):
        return str(shipped)
    knobs.build.impl = None
    try:
        path: str = build._build(name, src, srcdir, *rest, [])  # noqa: SLF001  what the hook stands in front of
        return path
    finally:
        knobs.build.impl = _build

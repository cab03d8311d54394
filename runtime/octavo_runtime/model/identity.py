"""What tells one model from another without reading all of it."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from octavo_runtime.model.spec import ModelInfo

_SAMPLE: Final = 64 << 10  # bytes at the start, in the middle and at the end of each file of weights


def fingerprint(info: ModelInfo) -> str:
    """A digest of configuration, and of names, sizes and samples of the weights: also a fine-tuned model has another.

    Raises `OSError`. Not for files that somebody has made to deceive.
    """
    digest = hashlib.sha256()
    for file in _files(info):
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            for start in (0, max(0, size // 2), max(0, size - _SAMPLE)):
                content.seek(start)
                digest.update(content.read(_SAMPLE))
    return digest.hexdigest()


def _files(info: ModelInfo) -> Iterable[Path]:
    if info.path.is_file():
        return [info.path]
    return [info.path / "config.json", *sorted(info.path.glob("*.safetensors"))]

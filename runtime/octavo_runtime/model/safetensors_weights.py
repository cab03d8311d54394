"""Weights of a Hugging Face folder: one or many safetensors files, mapped into memory and read tensor by tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from octavo_runtime.errors import ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet
    from pathlib import Path

    from torch import Tensor

    from octavo_runtime.model.shard import Cut


class SafetensorsWeights:
    """Implements `WeightSource`. The names are those of transformers, and so are the layouts."""

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        for file in sorted(folder.glob("*.safetensors")):
            try:
                self._open[file] = safe_open(file, framework="pt")
            except (SafetensorError, OSError) as error:
                raise ModelUnsupported(f"{file} is not a readable safetensors file: {error}") from error
            self._file_of |= dict.fromkeys(self._open[file].keys(), file)

    @property
    def names(self) -> AbstractSet[str]:
        return self._file_of.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._open[self._file_of[name]].get_slice(name).get_shape())

    def load(self, name: str, cut: Cut | None = None) -> Tensor:
        """A copy: one tensor that is kept as it lies in the file would keep the whole file mapped and resident."""
        file = self._open[self._file_of[name]]
        if cut is None:
            tensor: Tensor = file.get_tensor(name)
            return tensor.clone()
        return torch.cat(list(cut.pieces(file.get_slice(name))))

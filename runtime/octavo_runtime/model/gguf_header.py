"""The header of a GGUF file: metadata and the table of tensors, read without touching a weight.

    "GGUF" version u32 | tensor count u64 | pair count u64 | pairs | tensor table | padding | weights

Format: ggml's docs/gguf.md, versions 2 and 3, little-endian. The `gguf` package has a reader too; it makes a numpy view
of every vocabulary entry, 2.7 s for a vocabulary of 49,152 where this takes 0.2 s, and a start reads the header in two
processes. Weights are decoded by that package (gguf_weights.py).
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from octavo_runtime.errors import ModelUnsupported

if TYPE_CHECKING:
    from pathlib import Path

# uint8, int8, uint16, int16, uint32, int32, float32, bool, then string (8) and array (9), uint64, int64, float64
_SCALARS: Final = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_MAGIC: Final = int.from_bytes(b"GGUF", "little")
_STRING: Final = 8
_ARRAY: Final = 9
_DEFAULT_ALIGNMENT: Final = 32  # bytes


@dataclass(frozen=True, slots=True)
class GGUFTensor:
    name: str
    shape: tuple[int, ...]  # outermost dimension first, as torch counts (the file counts from the innermost)
    ggml_type: int
    offset: int  # bytes from the file's start


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    metadata: dict[str, Any]  # int, float, bool, str or a list of these
    tensors: dict[str, GGUFTensor]


def read_gguf_header(path: Path) -> GGUFHeader:
    """Read the header. Raises `ModelUnsupported` when the file is no GGUF of a known version, or is cut short."""
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Cursor(data))
        except (struct.error, ValueError, UnicodeDecodeError) as error:  # mmap refuses an empty file with ValueError
            raise ModelUnsupported(f"{path} is not a readable GGUF file: {error}") from error


class _Cursor:
    """A position in the file that moves on with every value read."""

    def __init__(self, data: mmap.mmap) -> None:
        self.data = data
        self.position = 0

    def unpack(self, layout: str) -> tuple[int, ...]:
        layout = "<" + layout
        values = struct.unpack_from(layout, self.data, self.position)
        self.position += struct.calcsize(layout)
        return values

    def string(self) -> str:
        (length,) = self.unpack("Q")
        end = self.position + length
        if end > len(self.data):
            raise ValueError(f"a string at byte {self.position} runs past the end")
        raw = self.data[self.position : end]
        self.position = end
        return raw.decode()

    def value(self, kind: int) -> object:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self._array()
        if kind not in _SCALARS:
            raise ValueError(f"unknown value type {kind} at byte {self.position}")
        return self.unpack(_SCALARS[kind])[0]

    def _array(self) -> list[object]:
        kind, length = self.unpack("IQ")
        if length > len(self.data):
            raise ValueError(f"an array of {length} values at byte {self.position} runs past the end")
        if kind in _SCALARS:
            return list(self.unpack(f"{length}{_SCALARS[kind]}"))
        return [self.value(kind) for _ in range(length)]


def _parse(cursor: _Cursor) -> GGUFHeader:
    magic, version, tensor_count, pair_count = cursor.unpack("IIQQ")
    if magic != _MAGIC:
        raise ValueError(f"it starts with {cursor.data[:4]!r}")
    if version not in (2, 3):
        raise ValueError(f"version {version}; 2 and 3 are known")
    metadata: dict[str, Any] = {}
    for _ in range(pair_count):
        key = cursor.string()
        (kind,) = cursor.unpack("I")
        metadata[key] = cursor.value(kind)
    table = [_read_tensor(cursor) for _ in range(tensor_count)]
    start = _align(cursor.position, metadata.get("general.alignment", _DEFAULT_ALIGNMENT))
    tensors = {name: GGUFTensor(name, shape, kind, start + offset) for name, shape, kind, offset in table}
    return GGUFHeader(metadata, tensors)


def _read_tensor(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.string()
    (rank,) = cursor.unpack("I")
    shape = cursor.unpack(f"{rank}Q")
    kind, offset = cursor.unpack("IQ")
    return name, shape[::-1], kind, offset


def _align(position: int, alignment: object) -> int:
    if not isinstance(alignment, int) or alignment <= 0:
        raise ValueError(f"general.alignment is {alignment!r}")
    return -(-position // alignment) * alignment

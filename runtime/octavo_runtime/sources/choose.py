"""Which files of a listing are fetched: weights as safetensors or GGUF, configuration and tokenizer. Pure.

Never pickles, whose loading runs code, and never Python. What lies in subfolders (other frameworks, other formats) is
left there.
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import TYPE_CHECKING, Final, NamedTuple

from octavo_runtime.errors import ModelNotFound, ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

_SIDE_FILES: Final = ("*.json", "*.jinja", "merges.txt", "tokenizer.model")
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class RemoteFile(NamedTuple):
    """One file of a listing."""

    name: str  # relative to the model, with slashes
    size: int  # bytes
    etag: str = ""  # changes with the content
    digest: str = ""  # "sha256:…" or "git:…" of the content, where the storage knows it


def choose_files(listing: Sequence[RemoteFile], wanted: str | None, where: str) -> list[RemoteFile]:
    """The files of `listing` to fetch, the small ones first. `wanted`: one GGUF file; `where` is for messages.

    Raises `ModelNotFound` without weights or without the wanted file, `ModelUnsupported` when the only weights are
    pickles or when there is a choice to make.
    """
    top = [file for file in listing if "/" not in file.name and not file.name.startswith(".")]
    if wanted is not None:
        return _only(top, wanted, where)
    weights = _safetensors(top)
    if not weights:
        return [_single_gguf(top, where)]
    side = [file for file in top if any(fnmatch(file.name, pattern) for pattern in _SIDE_FILES)]
    return sorted([*side, *weights], key=lambda file: (file.size, file.name))


def _only(top: Sequence[RemoteFile], wanted: str, where: str) -> list[RemoteFile]:
    found = [file for file in top if file.name == wanted]
    if not found:
        raise ModelNotFound(f"{where} has no file {wanted}{_hint(_ggufs(top))}")
    return found


def _safetensors(top: Sequence[RemoteFile]) -> list[RemoteFile]:
    """Some repositories hold the same weights twice, once by transformers' names and once by the maker's own."""
    found = [file for file in top if file.name.endswith(".safetensors")]
    by_transformers = [file for file in found if file.name.startswith("model")]
    return by_transformers or found


def _ggufs(top: Sequence[RemoteFile]) -> list[RemoteFile]:
    return [file for file in top if file.name.endswith(".gguf")]


def _single_gguf(top: Sequence[RemoteFile], where: str) -> RemoteFile:
    ggufs = _ggufs(top)
    if len(ggufs) == 1:
        return ggufs[0]
    if ggufs:
        raise ModelUnsupported(f"{where} holds {len(ggufs)} GGUF files; name one of them{_hint(ggufs)}")
    pickles = sorted(file.name for file in top if any(fnmatch(file.name, pattern) for pattern in _PICKLES))
    if pickles:
        raise ModelUnsupported(
            f"{where} has its weights as Python pickles ({', '.join(pickles[:3])}), which can run code when they are "
            "loaded; nothing was fetched; convert them to safetensors"
        )
    raise ModelNotFound(f"{where} holds neither *.safetensors nor *.gguf weights")


def _hint(ggufs: Sequence[RemoteFile]) -> str:
    return f"; it has {', '.join(sorted(file.name for file in ggufs))}" if ggufs else ""

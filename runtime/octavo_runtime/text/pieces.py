"""What single tokens stand for: bytes, which need not be whole characters."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from tokenizers import Tokenizer as Backend

_BYTE: Final = re.compile(r"<0x([0-9A-F]{2})>")  # SentencePiece's spelling of a byte
_SPACE: Final = "\u2581"  # SentencePiece's spelling of a space


class Pieces:
    """Bytes and names of a vocabulary's tokens. Safe to share between threads."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        added = backend.get_added_tokens_decoder()
        self._added = {token_id: token.content for token_id, token in added.items()}
        self._special = frozenset(token_id for token_id, token in added.items() if token.special)
        decoder = json.loads(backend.decoder.__getstate__()) if backend.decoder is not None else {}
        kinds = {step["type"] for step in decoder.get("decoders", [decoder]) if step}
        self._byte_level = "ByteLevel" in kinds
        self._sentencepiece = bool(kinds & {"Metaspace", "ByteFallback"})

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special

    def bytes_of(self, token_id: int) -> bytes:
        """The token in the middle of a text; empty for an id that the vocabulary does not have."""
        if (added := self._added.get(token_id)) is not None:
            return added.encode()
        piece: str | None = self._backend.id_to_token(token_id)
        if piece is None:
            return b""
        if self._byte_level:
            return b"".join(bytes([_BYTES[char]]) if char in _BYTES else char.encode() for char in piece)
        if match := _BYTE.fullmatch(piece):
            return bytes.fromhex(match[1])
        if self._sentencepiece:
            return piece.replace(_SPACE, " ").encode()
        text: str = self._backend.decode([token_id], skip_special_tokens=False)
        return text.encode()

    def name_of(self, token_id: int) -> str:
        r"""The token as text; bytes that are no whole character are written as `\xe2`, so that no two tokens merge."""
        return self.bytes_of(token_id).decode("utf-8", "backslashreplace")


def _byte_alphabet() -> dict[str, int]:
    """What character stands for each byte in byte-level BPE (GPT-2): itself if it can be seen, else one from 256."""
    seen = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAC + 1), *range(0xAE, 0xFF + 1)]
    hidden = [byte for byte in range(256) if byte not in set(seen)]
    return {chr(byte): byte for byte in seen} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


_BYTES: Final[dict[str, Any]] = _byte_alphabet()

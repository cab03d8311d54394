"""SentencePiece's BPE from GGUF metadata (`tokenizer.ggml.model` "llama": Llama 2, Mistral, TinyLlama and their kin).

SentencePiece joins the neighbours whose union has the best score, again and again, and spells what is left in bytes
(src/llama-vocab.cpp has the same in llama.cpp). As merges for the `tokenizers` library: every way in which a piece
falls into two others, in the order of the pieces' scores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from octavo_runtime.errors import ModelUnsupported

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NORMAL: Final = 1  # token types
_USER_DEFINED: Final = 4
_BYTE: Final = 6
_SPACE: Final = "\u2581"


def sentencepiece_backend(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    """Without special tokens. Raises `ModelUnsupported` for a vocabulary that cannot be rebuilt faithfully."""
    for key in ("tokens", "token_type", "scores"):
        if f"tokenizer.ggml.{key}" not in metadata:
            raise ModelUnsupported(f"{path}: a SentencePiece vocabulary without tokenizer.ggml.{key}")
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    types: list[int] = metadata["tokenizer.ggml.token_type"]
    scores: list[float] = metadata["tokenizer.ggml.scores"]
    if types.count(_BYTE) != 256:
        raise ModelUnsupported(f"{path}: a SentencePiece vocabulary with {types.count(_BYTE)} byte tokens, not 256")
    typed = zip(tokens, types, strict=True)
    if any(kind == _USER_DEFINED and _SPACE in token for token, kind in typed):
        raise ModelUnsupported(f"{path}: a SentencePiece vocabulary with user-defined tokens that contain spaces")
    unknown = tokens[metadata.get("tokenizer.ggml.unknown_token_id", 0)]
    vocab = {token: token_id for token_id, token in enumerate(tokens)}
    merges = _merges(tokens, types, scores)
    backend = Tokenizer(BPE(vocab=vocab, merges=merges, unk_token=unknown, byte_fallback=True, fuse_unk=True))
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    steps = [normalizers.Prepend(_SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    after = [decoders.Strip(" ", 1, 0)] if prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *after]
    )
    return backend


def _merges(tokens: list[str], types: list[int], scores: list[float]) -> list[tuple[str, str]]:
    pieces = {
        token: score for token, kind, score in zip(tokens, types, scores, strict=True) if kind == _NORMAL and token
    }
    best_first = sorted(pieces, key=lambda piece: -pieces[piece])  # stable: of equals, the first in the vocabulary
    return [
        (piece[:at], piece[at:])
        for piece in best_first
        for at in range(1, len(piece))
        if piece[:at] in pieces and piece[at:] in pieces
    ]

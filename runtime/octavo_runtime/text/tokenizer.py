"""Text to token ids and back, by the `tokenizers` library alone: importing transformers takes 7 seconds of a start."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from tokenizers import Tokenizer as Backend

from octavo_runtime.errors import ModelNotFound, ModelUnsupported
from octavo_runtime.model.gguf_header import read_gguf_header
from octavo_runtime.text.gguf_tokenizer import build_backend, chat_template_of, special_tokens_of
from octavo_runtime.text.pieces import Pieces
from octavo_runtime.text.special import SpecialTexts

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from octavo_runtime.model.spec import ModelInfo

# The names under which chat templates know the special tokens.
_SPECIAL_TOKEN_NAMES: Final = ("bos_token", "eos_token", "unk_token", "pad_token")


@dataclass(frozen=True, slots=True)
class Tokenizer:
    """A model's tokenizer. Safe to share between threads: encoding and decoding change nothing."""

    backend: Backend = field(repr=False)
    vocab_size: int  # rows of the embedding, so every id below it can be generated
    bos_token_id: int | None
    eos_token_ids: frozenset[int]
    special_tokens: dict[str, str]  # bos_token, eos_token, … as chat templates name them; absent ones are left out
    chat_template: str | None = field(repr=False)
    pieces: Pieces = field(init=False, repr=False)
    special_texts: SpecialTexts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pieces", Pieces(self.backend))
        object.__setattr__(self, "special_texts", SpecialTexts(self.backend))

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. `add_special_tokens` puts BOS and the like around it; a rendered chat has its own."""
        ids: list[int] = self.backend.encode(text, add_special_tokens=add_special_tokens).ids
        return ids

    def surround(self, ids: list[int]) -> list[int]:
        """Put around `ids` what `add_special_tokens` puts around a text."""
        around = self.encode("")
        split = around.index(self.bos_token_id) + 1 if self.bos_token_id in around else 0
        return around[:split] + ids + around[split:]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of `ids`; bytes that are no UTF-8 come out as U+FFFD. For a growing sequence use `Detokenizer`."""
        text: str = self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text


def load_tokenizer(path: Path, info: ModelInfo) -> Tokenizer:
    """Load the tokenizer of the model at `path` that `info` describes.

    Raises `ModelNotFound` when a folder has no tokenizer.json, `ModelUnsupported` when the tokenizer is of a kind that
    cannot be rebuilt faithfully.
    """
    if info.weight_format == "gguf":
        return _load_from_gguf(info)
    return _load_from_folder(path, info)


def _load_from_gguf(info: ModelInfo) -> Tokenizer:
    metadata = read_gguf_header(info.path).metadata
    return Tokenizer(
        backend=build_backend(info.path, metadata),
        vocab_size=info.vocab_size,
        bos_token_id=info.bos_token_id,
        eos_token_ids=info.eos_token_ids,
        special_tokens=special_tokens_of(metadata),
        chat_template=chat_template_of(metadata),
    )


def _load_from_folder(folder: Path, info: ModelInfo) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ModelNotFound(
            f"{folder} has no tokenizer.json; older formats are not read (save it with a fast tokenizer)"
        )
    try:
        backend = Backend.from_file(str(file))
    except Exception as error:  # the library has no narrower one
        raise ModelUnsupported(f"{file} cannot be read: {error}") from error
    backend.no_truncation()
    backend.no_padding()
    config = _read_json(folder / "tokenizer_config.json")
    return Tokenizer(
        backend=backend,
        vocab_size=info.vocab_size,
        bos_token_id=info.bos_token_id,
        eos_token_ids=info.eos_token_ids,
        special_tokens=_special_tokens(folder, config),
        chat_template=_chat_template(folder, config),
    )


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelUnsupported(f"{file} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ModelUnsupported(f"{file} is not a JSON object")
    return content


def _special_tokens(folder: Path, config: dict[str, Any]) -> dict[str, str]:
    """From tokenizer_config.json, or for older folders special_tokens_map.json; a token is a string or an object."""
    values = _read_json(folder / "special_tokens_map.json") | config
    tokens = {name: values.get(name) for name in _SPECIAL_TOKEN_NAMES}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    """chat_template.jinja wins over tokenizer_config.json's, which may list several by name."""
    file = folder / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    return template

"""A tokenizer rebuilt from GGUF metadata: vocabulary, merges and the name of the rule that splits text into words.

That name (`tokenizer.ggml.pre`) stands for regular expressions that the file does not hold; they are llama.cpp's
(src/llama-vocab.cpp). A wrong rule gives slightly different tokens and a slightly worse model with no error anywhere,
so a name that is not known is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.text.gguf_sentencepiece import sentencepiece_backend

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_CONTROL: Final = 3  # token types: special, never part of a text
_USER_DEFINED: Final = 4  # matched whole, but ordinary text

_LLAMA3_WORDS: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_WORDS: Final = _LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN_WORDS: Final = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class _Rule:
    """How a family splits text before BPE. `words` None: GPT-2's own expression, built into the library."""

    words: str | None = None
    single_digits: bool = False  # split off every digit first
    whole_words: bool = False  # a word that is in the vocabulary is one token, whatever the merges say
    bos: bool = False  # BOS before a text, where the file does not say


_LLAMA3: Final = _Rule(_LLAMA3_WORDS, whole_words=True, bos=True)
_RULES: Final = {
    "default": _Rule(),
    "gpt-2": _Rule(),
    "smollm": _Rule(single_digits=True),
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama-bpe": _LLAMA3,
    "qwen2": _Rule(_QWEN2_WORDS),
    "deepseek-r1-qwen": _Rule(_QWEN2_WORDS),
    "tekken": _Rule(_TEKKEN_WORDS, whole_words=True, bos=True),
}


def build_backend(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    """Build the tokenizer. Raises `ModelUnsupported` for a kind or a splitting rule that is not known."""
    match metadata.get("tokenizer.ggml.model"):
        case "gpt2":
            return _build_byte_level(path, metadata)
        case "llama":
            backend = sentencepiece_backend(path, metadata)
            _finish(backend, metadata, bos=True)
            return backend
        case kind:
            known = "byte-level BPE ('gpt2') and SentencePiece BPE ('llama') are"
            raise ModelUnsupported(f"{path}: tokenizer {kind!r} is not served in GGUF; {known}")


def _build_byte_level(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in _RULES:
        raise ModelUnsupported(f"{path}: tokenizer.ggml.pre is {name!r}; known are {', '.join(_RULES)}")
    rule = _RULES[name]
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    backend = Tokenizer(_bpe(tokens, metadata["tokenizer.ggml.merges"], rule))
    backend.pre_tokenizer = _pre_tokenizer(rule)
    backend.decoder = decoders.ByteLevel()
    _finish(backend, metadata, bos=rule.bos)
    return backend


def _finish(backend: Tokenizer, metadata: Mapping[str, Any], *, bos: bool) -> None:
    """Special tokens, and BOS before a text: `bos` where the file does not say."""
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    _add_special_tokens(backend, tokens, metadata.get("tokenizer.ggml.token_type", []))
    if metadata.get("tokenizer.ggml.add_bos_token", bos):
        backend.post_processor = _bos_first(tokens, metadata["tokenizer.ggml.bos_token_id"])


def special_tokens_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens' texts under the names that chat templates use."""
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    ids = {name: metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in names.items()}
    return {name: tokens[token_id] for name, token_id in ids.items() if token_id is not None}


def chat_template_of(metadata: Mapping[str, Any]) -> str | None:
    template = metadata.get("tokenizer.chat_template")
    return str(template) if template else None


def _bpe(tokens: list[str], merges: list[str], rule: _Rule) -> BPE:
    pairs: list[tuple[str, str]] = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    return BPE(
        vocab={token: token_id for token_id, token in enumerate(tokens)},
        merges=pairs,
        ignore_merges=rule.whole_words,
    )


def _pre_tokenizer(rule: _Rule) -> pre_tokenizers.PreTokenizer:
    if rule.words is None:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        return (
            pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
            if rule.single_digits
            else words
        )
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(rule.words), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _add_special_tokens(backend: Tokenizer, tokens: list[str], types: list[int]) -> None:
    typed = list(zip(tokens, types, strict=False))
    backend.add_special_tokens([AddedToken(token, normalized=False) for token, kind in typed if kind == _CONTROL])
    backend.add_tokens([AddedToken(token, normalized=False) for token, kind in typed if kind == _USER_DEFINED])


def _bos_first(tokens: list[str], bos_token_id: int) -> processors.TemplateProcessing:
    bos = tokens[bos_token_id]
    return processors.TemplateProcessing(single=f"{bos}:0 $A:0", special_tokens=[(bos, bos_token_id)])

"""A SentencePiece vocabulary from GGUF metadata encodes as SentencePiece does."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from octavo_runtime.errors import ModelUnsupported
from octavo_runtime.text.gguf_tokenizer import build_backend

CORPUS = (
    "The lighthouse keeper wrote down the weather every evening, and on the last page he drew the harbour. Rain had "
    "fallen for nine days.\n    def add(a, b):\n        return a + b\nWhen the water rose, the ferry stopped, the "
    "shops closed early, and people told each other about the year in which the bridge was built. anan banana nana "
)


def trained_pieces() -> list[str]:
    """Pieces in the order in which BPE learns them, spaces written as SentencePiece writes them."""
    backend = Backend(BPE())
    backend.train_from_iterator([CORPUS.replace(" ", "▁").replace("\n", "▁")] * 3, BpeTrainer(vocab_size=300))
    vocab = backend.get_vocab()
    return sorted((piece for piece in vocab if len(piece) > 1), key=vocab.get)


def metadata(**changes: object) -> dict[str, object]:
    pieces = trained_pieces()
    letters = sorted(set(CORPUS.replace(" ", "▁")) - {"\n"})
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *pieces, *letters]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(pieces) + len(letters))
    scores = [0.0] * 259 + [-float(index) for index in range(len(pieces) + len(letters))]
    values = {
        "model": "llama",
        "tokens": tokens,
        "token_type": types,
        "scores": scores,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in {**values, **changes}.items() if value is not None}


METADATA = metadata()
BACKEND = build_backend("model.gguf", METADATA)


def encode_slowly(text: str, metadata: dict[str, object]) -> list[int]:
    """SentencePiece's rule, as llama.cpp has it: join the neighbours with the best score, leftmost first."""
    tokens, types, scores = (metadata[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
    ids = {token: index for index, token in enumerate(tokens)}
    parts = list("▁" + text.replace(" ", "▁")) if text else []
    while True:
        joined = [ids.get(left + right) for left, right in pairwise(parts)]
        good = [(-scores[token], at) for at, token in enumerate(joined) if token is not None and types[token] == 1]
        if not good:
            break
        _, at = min(good)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    out = []
    for part in parts:
        out += [ids[part]] if part in ids else [ids[f"<0x{byte:02X}>"] for byte in part.encode()]
    return out


@settings(max_examples=100, deadline=None)
@given(text=st.text(st.sampled_from("abdehnrstw ▁é🎉\n"), max_size=40))
@example(text=CORPUS)
@example(text="ananananan banana nananaana")
@example(text="  two  spaces ")
@example(text="")
def test_it_joins_what_sentencepiece_joins(text):
    ids = BACKEND.encode(text, add_special_tokens=False).ids
    assert ids == encode_slowly(text, METADATA)
    assert BACKEND.decode(ids) == text.replace("▁", " ")


def test_special_tokens_and_bos():
    ids = BACKEND.encode("the</s>the").ids
    assert (ids[0], ids.count(2)) == (1, 1)
    without = build_backend("model.gguf", metadata(add_bos_token=False))
    assert without.encode("the").ids == encode_slowly("the", METADATA)


def test_a_family_without_a_space_before_the_text():
    bare = build_backend("model.gguf", metadata(add_space_prefix=False))
    ids = bare.encode("the water", add_special_tokens=False).ids
    assert bare.decode(ids) == "the water"
    assert ids != BACKEND.encode("the water", add_special_tokens=False).ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"scores": None}, "without tokenizer.ggml.scores"),
        ({"token_type": [1] * len(METADATA["tokenizer.ggml.tokens"])}, "0 byte tokens"),
        (
            {"token_type": [2, 3, 3] + [6] * 256 + [4] * (len(METADATA["tokenizer.ggml.tokens"]) - 259)},
            "contain spaces",
        ),
    ],
)
def test_a_vocabulary_that_cannot_be_rebuilt_is_refused(changes, message):
    with pytest.raises(ModelUnsupported, match=message):
        build_backend("model.gguf", metadata(**changes))

"""What single tokens stand for."""

from __future__ import annotations

import pytest
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordLevel

import models
from octavo_runtime.model.info import read_model_info
from octavo_runtime.text.pieces import Pieces
from octavo_runtime.text.tokenizer import load_tokenizer


def byte_level() -> Backend:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<é>", normalized=False)])
    return backend


def test_each_byte_of_a_byte_level_vocabulary_is_found():
    backend = byte_level()
    pieces = Pieces(backend)
    assert {pieces.bytes_of(token) for token in range(256)} == {bytes([byte]) for byte in range(256)}
    text = "Hello 🎉 wörld\n"
    assert b"".join(map(pieces.bytes_of, backend.encode(text).ids)) == text.encode()


def test_parts_of_characters_have_names_of_their_own():
    pieces = Pieces(byte_level())
    names = {pieces.name_of(token) for token in range(257)}
    assert len(names) == 257
    assert {" ", "a", "\\xf0", "<é>"} <= names


def test_special_tokens_are_known_and_ids_beyond_the_vocabulary_are_empty():
    pieces = Pieces(byte_level())
    assert [pieces.is_special(token) for token in (0, 256, 300)] == [False, True, False]
    assert pieces.bytes_of(256) == "<é>".encode()
    assert pieces.bytes_of(300) == b""


def test_sentencepieces_spaces_and_bytes():
    vocab = {"▁Hello": 0, "▁": 1, "<0xE2>": 2, "x": 3}
    backend = Backend(WordLevel(vocab, unk_token="x"))
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    pieces = Pieces(backend)
    assert [pieces.bytes_of(token) for token in range(4)] == [b" Hello", b" ", b"\xe2", b"x"]


@pytest.mark.model
def test_a_real_vocabularys_tokens_spell_the_text():
    path = models.smollm2_gguf()
    tokenizer = load_tokenizer(path, read_model_info(path))
    text = "Hello 🎉👨‍👩‍👧 wörld, مرحبا 你好\n\n<|im_end|>"
    assert b"".join(map(tokenizer.pieces.bytes_of, tokenizer.encode(text))) == text.encode()

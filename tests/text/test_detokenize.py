"""Text as it grows: whole characters only, nothing of a stop string, and in sum what decoding at once gives."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, pre_tokenizers
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE

import models
from octavo_runtime.model.info import read_model_info
from octavo_runtime.text.detokenize import Detokenizer
from octavo_runtime.text.tokenizer import Tokenizer, load_tokenizer

TEXT = "Hello 🎉👨‍👩‍👧 wörld, مرحبا 你好\n\nUser: next"


def byte_tokenizer() -> Tokenizer:
    """One token per byte, so that every character beyond ASCII is split; id 256 is a special token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(BPE(vocab={token: i for i, token in enumerate(alphabet)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken("<end>", normalized=False)])
    return Tokenizer(backend, 257, None, frozenset({256}), {}, None)


BYTES = byte_tokenizer()


def pieces(detokenizer: Detokenizer, ids: list[int], size: int = 1) -> list[str]:
    given_out = [detokenizer.add(ids[at : at + size]) for at in range(0, len(ids), size)]
    return [*given_out, detokenizer.finish()]


@pytest.mark.parametrize("size", [1, 3, 1000])
def test_pieces_are_whole_characters_and_add_up(size):
    out = pieces(Detokenizer(BYTES), BYTES.encode(TEXT), size)
    assert "".join(out) == TEXT
    assert not any("\ufffd" in piece for piece in out)


def test_an_unfinished_character_at_the_end_is_dropped():
    ids = BYTES.encode("a🎉")[:-1]
    assert "".join(pieces(Detokenizer(BYTES), ids)) == "a"


def test_special_tokens_are_left_out_unless_wanted():
    ids = [*BYTES.encode("a"), 256, *BYTES.encode("b")]
    assert "".join(pieces(Detokenizer(BYTES), ids)) == "ab"
    assert "".join(pieces(Detokenizer(BYTES, skip_special_tokens=False), ids)) == "a<end>b"


@settings(max_examples=200, deadline=None)
@given(ids=st.lists(st.integers(0, 256), max_size=40), size=st.integers(1, 5))
def test_any_bytes_add_up_to_what_decoding_at_once_gives(ids, size):
    """Also where they are no UTF-8 at all; only an unfinished end may be missing."""
    out, whole = "".join(pieces(Detokenizer(BYTES), ids, size)), BYTES.decode(ids)
    assert whole.startswith(out)
    assert set(whole[len(out) :]) <= {"\ufffd"}


def cut(text: str, stop: list[str]) -> str:
    """Character by character, until the text so far ends with a stop string."""
    for end in range(len(text) + 1):
        lengths = [len(word) for word in stop if text[:end].endswith(word)]
        if lengths:
            return text[: end - max(lengths)]
    return text


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab🎉", max_size=30),
    stop=st.lists(st.text("ab🎉", min_size=1, max_size=4), max_size=3),
    size=st.integers(1, 6),
)
def test_the_text_ends_before_the_stop_string_that_is_complete_first(text, stop, size):
    """However the tokens arrive, and nothing given out has ever to be taken back."""
    detokenizer = Detokenizer(BYTES, stop)
    assert "".join(pieces(detokenizer, BYTES.encode(text), size)) == cut(text, stop)
    assert (detokenizer.matched is not None) == any(word in text for word in stop)


def test_a_possible_stop_string_is_held_back_and_then_given_out():
    detokenizer = Detokenizer(BYTES, ["\n\nUser:"])
    out = [detokenizer.add([token]) for token in BYTES.encode("hi\n\nUses")]
    assert out == ["h", "i", "", "", "", "", "", "\n\nUses"]


def test_what_is_held_at_the_end_is_given_out():
    detokenizer = Detokenizer(BYTES, ["END"])
    assert detokenizer.add(BYTES.encode("the EN")) == "the "
    assert detokenizer.finish() == "EN"


def test_the_matched_stop_string_is_told():
    detokenizer = Detokenizer(BYTES, ["zz", "b c", "c"])
    assert detokenizer.add(BYTES.encode("a b c d")) == "a "
    assert detokenizer.matched == "b c"
    assert detokenizer.add(BYTES.encode("e")) == ""
    assert detokenizer.finish() == ""


@settings(max_examples=300, deadline=None)
@given(
    text=st.text("ab", max_size=20),
    stop=st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3),
    silent=st.integers(0, 20),
)
def test_a_stop_string_that_is_complete_too_early_does_not_count(text, stop, silent):
    """The first `silent` tokens may not complete one; one that they begin may be completed after them."""
    detokenizer = Detokenizer(BYTES, stop)
    out = "".join(detokenizer.add([token], may_stop=n >= silent) for n, token in enumerate(BYTES.encode(text)))
    ends = [end for end in range(silent + 1, len(text) + 1) if any(text[:end].endswith(word) for word in stop)]
    if ends:
        expected = text[: ends[0] - max(len(word) for word in stop if text[: ends[0]].endswith(word))]
        assert out == expected
    else:
        assert out + detokenizer.finish() == text
    assert (detokenizer.matched is not None) == bool(ends)


def test_the_stop_string_may_be_part_of_the_text():
    for size in (1, 2, 100):
        detokenizer = Detokenizer(BYTES, ["END", "x"], include_stop=True)
        assert "".join(pieces(detokenizer, BYTES.encode("the END, at last x"), size)) == "the END"


def test_the_prompts_end_decides_how_the_first_token_is_spelled():
    """A SentencePiece-like decoder drops the space before a text's first word, but not in the middle of a text."""
    backend = Backend(BPE(vocab={"▁the": 0, "▁cat": 1}, merges=[]))
    backend.decoder = decoders.Metaspace()
    tokenizer = Tokenizer(backend, 2, None, frozenset(), {}, None)
    assert Detokenizer(tokenizer).add([1]) == "cat"
    assert Detokenizer(tokenizer, prompt_ids=[0]).add([1]) == " cat"


@pytest.mark.parametrize("prompt", ["the end is \ufffd", "🎉"])
def test_nothing_of_the_prompt_is_given_out_again(prompt):
    """Also where it ends in the very character that stands for broken ones, or is cut in the middle of one."""
    ids = BYTES.encode(prompt)
    assert "".join(pieces(Detokenizer(BYTES, prompt_ids=ids), BYTES.encode("abc"))) == "abc"
    assert "".join(pieces(Detokenizer(BYTES, prompt_ids=ids[:-1]), BYTES.encode("abc"))) == "abc"


@pytest.fixture(scope="module")
def smollm2() -> Tokenizer:
    path = models.smollm2_gguf()
    return load_tokenizer(path, read_model_info(path))


@pytest.mark.model
@settings(max_examples=100, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=30), prompt=st.lists(st.integers(0, 49151), max_size=10))
@example(ids=[218, 17], prompt=[141])  # the second half of a character, whose first half ends the prompt
def test_any_tokens_of_the_real_model_add_up(smollm2, ids, prompt):
    """Whatever came before: the pieces are the text, less a character that the prompt or the end leaves in two."""
    out = "".join(pieces(Detokenizer(smollm2, prompt_ids=prompt), ids))
    whole, before = smollm2.decode([*prompt, *ids]), smollm2.decode(prompt)
    assert whole.rstrip("\ufffd").endswith(out.strip("\ufffd"))
    assert len(before.rstrip("\ufffd")) + len(out) <= len(whole)

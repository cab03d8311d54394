"""Our tokenizer gives the ids and the text that transformers' fast tokenizer gives."""

from __future__ import annotations

import json

import pytest

import models
from octavo_runtime.errors import ModelNotFound, ModelUnsupported
from octavo_runtime.model.info import read_model_info
from octavo_runtime.text.gguf_tokenizer import build_backend
from octavo_runtime.text.tokenizer import load_tokenizer

TEXTS = [
    "",
    " ",
    "Hello world",
    "  leading and trailing  ",
    "tabs\t\tand\n\nnew lines\r\n   \n end",
    "numbers 1 12 123 1234567 3.14159 ١٢٣ ²³ Ⅷ",
    "don't I'll you've THEY'RE it's",
    "naïve café Ångström straße",
    "مرحبا بالعالم، كيف حالك؟",
    "你好世界 これはテストです。 안녕하세요",
    "emoji 🎉 👨‍👩‍👧‍👦 🇫🇷 ✊🏿 end",
    "e\u0301 combining, \u200b zero width, \ufeff bom, \x00 null, \x7f",
    "def f(x):\n    return x ** 2  # square\n\tif x>=10: pass",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|>",
    "<|im_start><|im_end <|",
    "https://example.org/a?b=c&d=%20 user@example.org",
    "a" * 300,
    "(((((((())))))) ======= -------- ******",
]
SPACES_BEFORE_DIGITS = ["a  1", "x   42  7", "\n\n 5"]


@pytest.fixture(scope="module")
def smollm2():
    path = models.smollm2_gguf()
    return load_tokenizer(path, read_model_info(path))


@pytest.fixture(scope="module")
def reference():
    """The tokenizer of transformers for the same model.

    From a GGUF file transformers splits as GPT-2 does, but this model's own tokenizer.json splits off each digit first,
    and so does llama.cpp under the file's name for the rule, `smollm`.
    """
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(models.smollm2_safetensors())
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


@pytest.mark.model
@pytest.mark.parametrize("text", [*TEXTS, *SPACES_BEFORE_DIGITS])
def test_encoding(smollm2, reference, text):
    assert smollm2.encode(text) == reference.encode(text)
    assert smollm2.encode(text, add_special_tokens=False) == reference.encode(text, add_special_tokens=False)


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_decoding(smollm2, reference, text):
    ids = smollm2.encode(text)
    assert smollm2.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert smollm2.decode(ids, skip_special_tokens=False) == text


@pytest.mark.model
def test_what_the_model_says_of_its_tokens(smollm2, reference):
    assert smollm2.vocab_size == len(reference) == 49152
    assert smollm2.eos_token_ids == {reference.eos_token_id}
    assert smollm2.bos_token_id == reference.bos_token_id
    assert smollm2.special_tokens == reference.special_tokens_map
    assert smollm2.chat_template == reference.chat_template


@pytest.mark.model
def test_a_folder_is_read_as_transformers_reads_it(smollm2):
    """From the tokenizer.json that transformers saved, with its own splitting."""
    from transformers import AutoTokenizer

    folder = models.smollm2_safetensors()
    ours, theirs = load_tokenizer(folder, read_model_info(folder)), AutoTokenizer.from_pretrained(folder)
    for text in [*TEXTS, *SPACES_BEFORE_DIGITS]:
        assert ours.encode(text) == theirs.encode(text)
    assert ours.special_tokens == smollm2.special_tokens
    assert ours.chat_template == smollm2.chat_template


# --- small tokenizers, made here --------------------------------------------------------------------------------------


def byte_alphabet() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def metadata(**changes: object) -> dict[str, object]:
    tokens = [*byte_alphabet(), "<s>", "</s>", "<think>", "ab", "abc", "Ġa"]
    types = [1] * 256 + [3, 3, 4, 1, 1, 1]
    values = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": ["a b", "ab c", "Ġ a"],
        "tokenizer.ggml.bos_token_id": 256,
        "tokenizer.ggml.eos_token_id": 257,
    }
    return {**values, **{f"tokenizer.ggml.{key}": value for key, value in changes.items()}}


@pytest.mark.parametrize("rule", ["llama-bpe", "qwen2", "tekken"])
def test_words_are_split_as_transformers_splits_them(rule):
    """The rules that a GGUF file names without stating them."""
    from tokenizers import Regex, pre_tokenizers
    from transformers.integrations.gguf.gguf_tokenizer_mapping import GGUF_PRE_TOKENIZER_SPLITS

    split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[rule]), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    expected = pre_tokenizers.Sequence([split, byte_level])
    backend = build_backend("model.gguf", metadata(pre=rule))
    for text in [*TEXTS, *SPACES_BEFORE_DIGITS]:
        assert backend.pre_tokenizer.pre_tokenize_str(text) == expected.pre_tokenize_str(text)


def test_control_tokens_are_whole_and_skipped_when_decoding():
    backend = build_backend("model.gguf", metadata())
    ids = backend.encode("ab</s>abc<think>").ids
    assert ids == [259, 257, 260, 258]
    assert backend.decode(ids) == "ababc<think>"


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, 259),
        ({"add_bos_token": True}, 256),
        ({"pre": "llama-bpe"}, 256),
        ({"pre": "llama-bpe", "add_bos_token": False}, 259),
    ],
)
def test_bos_where_the_file_or_the_family_wants_it(changes, first):
    backend = build_backend("model.gguf", metadata(**changes))
    assert backend.encode("ab").ids[0] == first
    assert backend.encode("ab", add_special_tokens=False).ids == [259]


@pytest.mark.parametrize(
    ("changes", "message"), [({"model": "bert"}, "tokenizer 'bert'"), ({"pre": "unheard-of"}, "pre is 'unheard-of'")]
)
def test_a_tokenizer_that_cannot_be_rebuilt_is_refused(changes, message):
    with pytest.raises(ModelUnsupported, match=message):
        build_backend("model.gguf", metadata(**changes))


@pytest.fixture
def folder(tmp_path):
    """A Hugging Face folder with a small tokenizer, truncation and padding set as some are saved."""
    backend = build_backend("model.gguf", metadata())
    backend.enable_truncation(3)
    backend.enable_padding(length=9)
    backend.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaForCausalLM"],
                "vocab_size": 262,
                "hidden_size": 8,
                "intermediate_size": 8,
                "num_hidden_layers": 1,
                "num_attention_heads": 1,
                "max_position_embeddings": 64,
            }
        )
    )
    (tmp_path / "model.safetensors").touch()
    return tmp_path


def load(folder):
    return load_tokenizer(folder, read_model_info(folder))


def test_a_saved_truncation_or_padding_does_not_count(folder):
    assert len(load(folder).encode("abcabcabcabcabc")) == 5


@pytest.mark.parametrize("spelling", ["<s>", {"content": "<s>", "lstrip": False}])
def test_special_tokens_in_both_spellings(folder, spelling):
    (folder / "tokenizer_config.json").write_text(json.dumps({"bos_token": spelling, "unk_token": None}))
    assert load(folder).special_tokens == {"bos_token": "<s>"}


def test_special_tokens_of_an_older_folder(folder):
    (folder / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>"}))
    assert load(folder).special_tokens == {"eos_token": "</s>"}


def test_a_chat_template_in_each_of_its_places(folder):
    assert load(folder).chat_template is None
    config = folder / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": "one"}))
    assert load(folder).chat_template == "one"
    config.write_text(
        json.dumps({"chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "two"}]})
    )
    assert load(folder).chat_template == "two"
    (folder / "chat_template.jinja").write_text("three")
    assert load(folder).chat_template == "three"


def test_a_folder_without_a_tokenizer(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelNotFound, match=r"no tokenizer.json"):
        load(folder)


def test_a_damaged_tokenizer(folder):
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ModelUnsupported, match=r"tokenizer.json cannot be read"):
        load(folder)

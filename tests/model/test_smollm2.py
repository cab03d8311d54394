"""The real model: greedy tokens equal those of transformers, from the GGUF file and from the safetensors folder."""

from __future__ import annotations

import pytest
import torch

import models
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.loader import open_weights
from octavo_runtime.text.chat import render
from octavo_runtime.text.tokenizer import load_tokenizer

pytestmark = pytest.mark.model

QUESTIONS = [
    "What is the capital of France?",
    "Hi",
    "Write three words about the sea.",
    "Translate to French: the cat sleeps on the mat.",
    "Explain in one sentence why the sky is blue, to a child of five who has never heard of light or of colours.",
    "def fibonacci(n):\n    '''Return the n-th Fibonacci number.'''\n",
    "List the numbers from 1 to 20. " * 6,
    "naïve café, 你好, مرحبا 🎉: what are these words?",
]
COUNT = 16


@pytest.fixture(scope="module")
def safetensors():
    return models.smollm2_safetensors()


@pytest.fixture(scope="module")
def prompts():
    path = models.smollm2_gguf()
    tokenizer = load_tokenizer(path, read_model_info(path))
    template = tokenizer.chat_template
    assert template is not None
    return [
        tokenizer.encode(render([{"role": "user", "content": question}], template), add_special_tokens=False)
        for question in QUESTIONS
    ]


@pytest.fixture(scope="module")
def expected(safetensors, prompts):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(safetensors, dtype=torch.float32)
    tokens = []
    for prompt in prompts:
        ids = torch.tensor([prompt])
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=COUNT, do_sample=False, pad_token_id=2
        )
        tokens.append(output[0, len(prompt) :].tolist())
    return tokens


@pytest.mark.parametrize("chunk", [48, 1 << 30], ids=["chunked", "whole"])
def test_greedy_tokens_equal_those_of_transformers(prompts, expected, runner_of, drive, chunk):
    """Eight prompts of 31 to 100 tokens in one batch, from the quantised file, with oneDNN's packed products."""
    runner = runner_of(models.smollm2_gguf(), num_blocks=512, block_size=16)
    assert drive(runner, prompts, COUNT, chunk=chunk, end=frozenset({2})) == expected


def test_the_question_of_the_readme(expected):
    path = models.smollm2_gguf()
    tokenizer = load_tokenizer(path, read_model_info(path))
    assert tokenizer.decode(expected[0]) == "The capital of France is Paris."


def test_both_formats_hold_the_same_weights(safetensors):
    """Every tensor, decoded and put in order by us, equals the one that transformers reads from the file."""
    infos = [read_model_info(path) for path in (models.smollm2_gguf(), safetensors)]
    ours, theirs = (open_weights(info, info.decoder) for info in infos)
    assert ours.names == theirs.names
    for name in ours.names:
        assert torch.equal(ours.load(name), theirs.load(name)), name


def test_both_formats_say_the_same_of_the_model(safetensors):
    from dataclasses import asdict

    ours, theirs = asdict(read_model_info(models.smollm2_gguf())), asdict(read_model_info(safetensors))
    differing = {key for key in ours if ours[key] != theirs[key]}
    assert differing == {"path", "weight_format", "dtype", "quantization"}

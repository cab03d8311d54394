"""The whole line on the real model: scheduler, layout, paged cache and decoder give transformers' greedy tokens."""

import pytest

from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.info import read_model_info

pytestmark = pytest.mark.model

BLOCK_SIZE = 4
NEW_TOKENS = 16
LENGTHS = (2, 5, 9, 16, 25, 33, 42, 57, 80, 130)
TEXT = (
    "The lighthouse keeper wrote down the weather every evening, and on the last page he drew the harbour. Rain had "
    "fallen for nine days. 1, 1, 2, 3, 5, 8, 13, 21 were the numbers on the door. def add(a, b): return a + b. When "
    "the water rose, the ferry stopped, the shops closed early, and people told each other about the year in which the "
    "bridge was built. Question: what is the capital of France? Answer: Paris. Question: how many legs has a spider? "
    "Answer: eight. In the morning the sun came out; nobody had expected it. "
)


@pytest.fixture(scope="module")
def folder():
    from models import smollm2_safetensors

    return smollm2_safetensors()


@pytest.fixture(scope="module")
def end(folder):
    return read_model_info(folder).eos_token_ids


@pytest.fixture(scope="module")
def prompts(folder):
    """50 prompts, five of each length: pieces of a text, from different places."""
    from octavo_runtime.text.tokenizer import load_tokenizer

    ids = load_tokenizer(folder, read_model_info(folder)).encode(TEXT * 5)
    return [ids[7 * number : 7 * number + LENGTHS[number % len(LENGTHS)]] for number in range(50)]


@pytest.fixture(scope="module")
def expected(folder, prompts, end):
    """What transformers generates. Those of one length go in one batch, which needs no padding."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = {}
    for length in LENGTHS:
        batch = torch.tensor([prompt for prompt in prompts if len(prompt) == length])
        generated = model.generate(
            batch,
            attention_mask=torch.ones_like(batch),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            eos_token_id=sorted(end),
            pad_token_id=0,
        )
        tokens |= {tuple(row[:length]): until_end(row[length:], end) for row in generated.tolist()}
    return [tokens[tuple(prompt)] for prompt in prompts]


def until_end(tokens, end):
    """Without the padding after an end token."""
    last = next((index for index, token in enumerate(tokens) if token in end), len(tokens))
    return tokens[: last + 1]


def make_engine(folder, num_blocks, **options):
    from octavo_runtime.runner.build import build_runner

    info = read_model_info(folder)
    config = ServeConfig(
        folder,
        dtype="float32",
        block_size=BLOCK_SIZE,
        kv_cache_memory=num_blocks * BLOCK_SIZE * info.kv_bytes_per_token(4),
    )
    runner = build_runner(config, info, lambda *_: None)
    assert runner.num_blocks == num_blocks
    return Engine(runner, max_num_seqs=50, max_num_batched_tokens=256, **options)


def generate(engine, prompts, end):
    params = SamplingParams(max_tokens=NEW_TOKENS, temperature=0.0, stop_token_ids=end)
    for number, prompt in enumerate(prompts):
        engine.add(Add(number, list(prompt), params))
    tokens = [[] for _ in prompts]
    while engine.has_work:
        done = engine.step(now=0.0)
        assert not done.failed
        for output in done.each_output():
            tokens[output.seq_id] += output.tokens
    assert engine.stats().kv_tokens_used == 0
    return tokens


def test_fifty_prompts_at_once(folder, prompts, expected, end):
    engine = make_engine(folder, num_blocks=3000)
    assert generate(engine, prompts, end) == expected
    assert engine.stats().preemptions == 0


@pytest.mark.parametrize("plan_ahead", [False, True])
def test_fifty_prompts_in_a_cache_so_small_that_they_preempt_each_other(folder, prompts, expected, end, plan_ahead):
    engine = make_engine(folder, num_blocks=150, project_peak=False, plan_ahead=plan_ahead)
    assert generate(engine, prompts, end) == expected
    assert engine.stats().preemptions >= 5


def test_fifty_prompts_that_are_partly_in_the_cache_with_tokens_guessed_ahead(folder, prompts, expected, end):
    engine = make_engine(folder, num_blocks=3000, speculative_ngram=4)
    assert generate(engine, prompts, end) == expected
    before = engine.stats()
    assert before.spec_accepted_tokens > 0
    assert generate(engine, prompts, end) == expected
    assert engine.stats().prefix_hits > before.prefix_hits + 1000

"""Two ranks in two processes, by gloo: the engine's steps on them, bad requests among them, and a rank that is lost."""

from __future__ import annotations

import signal
import threading

import pytest
import torch

from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.info import read_model_info
from octavo_runtime.runner.build import build_runner

PROMPTS = [[5, 6, 7, 8] * 9, [9], [11, 150, 3], [198, 0, 42]]
KV_BYTES = 64 * 4 * 2 * 3 * 16 * 4  # 64 blocks of 4 tokens, for each KV head


@pytest.fixture(scope="module")
def model(make_model):
    return make_model("Mixtral", num_local_experts=4, num_experts_per_tok=2)


@pytest.fixture(scope="module")
def lost():
    """Reasons that rank 0 gave for ending its process."""
    return []


def build(model, fatal=None, **settings):
    config = ServeConfig(model, block_size=4, threads=2, dtype="float32", **settings)
    return build_runner(config, read_model_info(model), lambda _phase, _done: None, fatal)


@pytest.fixture(scope="module")
def runners(model, lost):
    """One rank alone, and rank 0 of two."""
    threads = torch.get_num_threads()
    heard = threading.Event()
    alone = build(model, kv_cache_memory=2 * KV_BYTES)
    leading = build(
        model, lambda why: (lost.append(why), heard.set()), kv_cache_memory=KV_BYTES, tensor_parallel_size=2
    )
    leading.heard = heard
    yield alone, leading
    leading._workers.close()
    torch.distributed.destroy_process_group()
    torch.set_num_threads(threads)


def generate(runner, *changes):
    """Tokens, failures, and log probabilities of prompts, of one engine's steps."""
    engine = Engine(runner, max_num_seqs=8, max_num_batched_tokens=16)
    for number, prompt in enumerate(PROMPTS):
        params = {"max_tokens": 8, "temperature": 0.0} | (changes[number] if number < len(changes) else {})
        engine.add(Add(number, list(prompt), SamplingParams(**params)))
    tokens, failed, scores = [[] for _ in PROMPTS], [], []
    while engine.has_work:
        done = engine.step(now=0.0)
        failed += done.failed
        for output in done.each_output():
            tokens[output.seq_id] += output.tokens
            scores += output.prompt_logprobs or []
    return tokens, failed, scores


def test_two_ranks_give_the_tokens_of_one_with_half_of_the_cache_each(runners):
    alone, leading = runners
    assert alone.num_blocks == leading.num_blocks == 64
    drawn = {"temperature": 0.9, "seed": 5, "top_p": 0.95}
    assert generate(leading, {}, drawn) == generate(alone, {}, drawn)


def test_a_request_that_fails_in_the_middle_of_a_step_fails_alone(runners):
    """Where nothing may be chosen rank 0 raises; the log probabilities that follow are still computed by both."""
    alone, leading = runners
    impossible = {"allowed_token_ids": (1,), "logit_bias": ((1, float("-inf")),)}
    scored = {"prompt_logprobs": 1}
    tokens, failed, scores = generate(leading, scored, impossible)
    expected, _, expected_scores = generate(alone, scored, impossible)
    assert failed == [1]
    assert tokens == expected
    assert [score.token for score in scores] == [score.token for score in expected_scores] == PROMPTS[0][1:]
    assert [score.logprob for score in scores] == pytest.approx([score.logprob for score in expected_scores], abs=1e-4)


def test_a_rank_that_is_lost_ends_the_process_with_its_reason(runners, lost):
    _, leading = runners
    assert not lost
    leading._workers._members[0].process.send_signal(signal.SIGKILL)
    assert leading.heard.wait(180)
    assert lost[0] == "rank 1 of 2 ended with status -9"

"""A request's text depends on the request alone: not on its neighbours, nor on being preempted and computed again."""

from __future__ import annotations

import pytest
import torch

from conformance.tiny import CPU, save_tiny, tiny_config
from octavo_kernels.select import select_backend
from octavo_runtime.core.batch import SamplingParams
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner.torch_runner import TorchRunner

COUNT = 32
TOKENS = 14
PROMPTS = [[3 + (7 * number + 5 * index) % 125 for index in range(1 + number % 19)] for number in range(COUNT)]


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """So small products only lose by being shared out."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=["Llama", "Gemma2", "Qwen3Moe", "StableLm"])
def decoder(request, tmp_path_factory):
    """A dense model, one with windows and soft caps, one with experts, and one that transformers computes."""
    import transformers

    folder = tmp_path_factory.mktemp("model")
    model_class = getattr(transformers, f"{request.param}ForCausalLM")
    save_tiny(model_class, tiny_config(model_class.config_class), folder)
    return load_decoder(read_model_info(folder), select_backend("cpu", CPU), device=CPU, dtype=torch.float32)


def params(number):
    """Every other request is greedy, the others draw."""
    if number % 2:
        return SamplingParams(max_tokens=TOKENS, temperature=0.9, top_p=0.9, seed=100 + number)
    return SamplingParams(max_tokens=TOKENS, temperature=0.0)


def run(decoder, numbers, num_blocks=600, **options):
    """Their texts, and how often one was preempted. Admission looks at what fits now, not at what will."""
    runner = TorchRunner(decoder, num_blocks=num_blocks, block_size=4, device=CPU, dtype=torch.float32)
    engine = Engine(runner, max_num_seqs=COUNT, max_num_batched_tokens=40, project_peak=False, **options)
    for number in numbers:
        engine.add(Add(number, list(PROMPTS[number]), params(number)))
    texts = {number: [] for number in numbers}
    now = 0.0
    while engine.has_work:
        now += 1.0
        for output in engine.step(now=now).each_output():
            texts[output.seq_id] += output.tokens
    return texts, engine.stats().preemptions


@pytest.fixture(scope="module")
def together(decoder):
    texts, preemptions = run(decoder, range(COUNT))
    assert preemptions == 0
    assert all(len(text) == TOKENS for text in texts.values())
    return texts


def test_alone_and_among_thirty_two(decoder, together):
    assert together == {number: run(decoder, [number])[0][number] for number in range(COUNT)}


@pytest.mark.parametrize("plan_ahead", [False, True])
def test_preempted_and_not(decoder, together, plan_ahead):
    """In a tenth of the blocks, sequences push each other out and are computed again."""
    texts, preemptions = run(decoder, range(COUNT), num_blocks=60, plan_ahead=plan_ahead)
    assert preemptions > 5
    assert texts == together

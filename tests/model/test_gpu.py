"""The shell around CUDA, where there is a GPU. What it is told to do is tested without one, in test_buffers.py,
test_graphs.py and test_kv_plan.py.
"""

from __future__ import annotations

import pytest
import torch

from conformance.tiny import save_tiny, tiny_config
from octavo_runtime.config import ServeConfig
from octavo_runtime.core.batch import FlatBatch, SamplingParams, SamplingRow
from octavo_runtime.engine.messages import Add
from octavo_runtime.engine.step import Engine
from octavo_runtime.model.info import read_model_info
from octavo_runtime.runner.buffers import StepBuffers
from octavo_runtime.runner.build import build_runner
from octavo_runtime.runner.cuda import CudaCapturer, CudaGauge, PinnedMemory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GPU = torch.device("cuda")
LONG = 200_000_000  # cycles of the device; a tenth of a second
PROMPTS = [[3 + (7 * number + 5 * index) % 125 for index in range(1 + 3 * number)] for number in range(6)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    import transformers

    folder = tmp_path_factory.mktemp("model")
    save_tiny(transformers.LlamaForCausalLM, tiny_config(transformers.LlamaConfig), folder)
    return folder


@pytest.fixture(autouse=True)
def own_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))


def build(folder, **settings):
    config = ServeConfig(folder, dtype="float32", block_size=16, max_num_seqs=8, **settings)
    return build_runner(config, read_model_info(folder), lambda _phase, _done: None)


def generate(runner, *, plan_ahead=False):
    engine = Engine(runner, max_num_seqs=8, max_num_batched_tokens=64, plan_ahead=plan_ahead)
    for number, prompt in enumerate(PROMPTS):
        temperature = 0.9 * (number % 2)
        engine.add(Add(number, list(prompt), SamplingParams(max_tokens=12, temperature=temperature, seed=number)))
    texts = {number: [] for number in range(len(PROMPTS))}
    while engine.has_work:
        for output in engine.step(now=0.0).each_output():
            texts[output.seq_id] += output.tokens
    return texts


@pytest.mark.parametrize("plan_ahead", [False, True])
def test_graphs_give_the_tokens_of_eager_steps(folder, plan_ahead):
    eager, captured = build(folder, enforce_eager=True), build(folder)
    assert generate(captured, plan_ahead=plan_ahead) == generate(eager)
    assert captured._graphs._works
    assert len(captured._graphs._replays) > 1


def test_copies_bring_what_was_filled_in_however_late_they_are():
    buffers, copies = StepBuffers(PinnedMemory(GPU)), []
    for step in range(6):
        torch.cuda._sleep(LONG)
        row = SamplingRow(temperature=0.0, top_p=1.0, top_k=0, seed=0, position=1)
        batch = FlatBatch([step], [step], [step], [0, 1], [step + 1], [[step]], [0], [row])
        copies.append(buffers.fill(batch).token_ids.clone())
    assert torch.cat(copies).tolist() == list(range(6))


def test_the_second_start_does_not_measure(folder, monkeypatch):
    first = build(folder)
    blocks = first.num_blocks
    del first

    def measured(_gauge, _step):
        pytest.fail("measured")

    monkeypatch.setattr(CudaGauge, "peak_of", measured)
    assert build(folder).num_blocks == blocks


def test_after_a_capture_that_fails_the_device_computes_on():
    capturer, x = CudaCapturer(), torch.ones(4, device=GPU)
    stream = torch.cuda.current_stream()
    with pytest.raises(RuntimeError):
        capturer.capture(lambda: x.sum().item())
    assert torch.cuda.current_stream() == stream
    assert (x + 1).tolist() == [2.0] * 4

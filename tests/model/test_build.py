"""A runner from a configuration: the cache's size, the phases that are reported, and what cannot start."""

from __future__ import annotations

import pytest
import torch

from octavo_kernels.reference import ReferenceBackend
from octavo_runtime.config import ServeConfig
from octavo_runtime.errors import InvalidArgument, OutOfMemory
from octavo_runtime.model.info import read_model_info
from octavo_runtime.model.load import load_decoder
from octavo_runtime.runner.build import build_runner
from octavo_runtime.runner.kv_cache import count_blocks
from octavo_runtime.runner.machine import CACHE_DTYPES, choose_cache_dtype
from octavo_runtime.runner.torch_runner import TorchRunner

CPU = torch.device("cpu")
BLOCK = 1000  # bytes
GREEDY_PROMPTS = [[5, 6, 7], [8]]


@pytest.fixture(autouse=True)
def same_threads():
    """Building sets the process's thread count; other tests keep theirs."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def model(make_model):
    return make_model("Llama")  # 256 positions


def blocks(model, free=10_000_000, share=0.5, **settings):
    config = ServeConfig(model=model, block_size=16, **settings)
    return count_blocks(config, read_model_info(model), block_bytes=BLOCK, free=free, share=share)


def test_the_cache_takes_its_share_of_free_memory(model):
    assert blocks(model, free=1_000_000) == 500


def test_the_cache_takes_what_it_is_given(model):
    assert blocks(model, kv_cache_memory=123_456) == 123


def test_the_cache_takes_the_share_that_it_is_given(model):
    assert blocks(model, free=1_000_000, kv_cache_memory=0.25) == 250
    assert blocks(model, free=4_000_000, kv_cache_memory=0.25) == 1000


def test_the_cache_is_never_larger_than_all_sequences_can_fill(model):
    assert blocks(model, max_num_seqs=4) == 4 * 256 // 16
    assert blocks(model, max_num_seqs=4, max_model_len=100) == 4 * 7


def test_more_than_is_free_is_refused(model):
    with pytest.raises(OutOfMemory, match="kv_cache_memory is 19 MiB; 9 MiB are free"):
        blocks(model, kv_cache_memory=20_000_000)


def test_less_than_the_sequence_that_was_asked_for_is_refused(model):
    with pytest.raises(OutOfMemory, match="raise kv_cache_memory or lower max_model_len"):
        blocks(model, kv_cache_memory=15_999, max_model_len=256)
    assert blocks(model, kv_cache_memory=16_000, max_model_len=256) == 16


def test_without_a_length_asked_for_a_small_cache_will_do(model):
    """The engine then serves sequences as long as the cache can hold."""
    assert blocks(model, kv_cache_memory=2_000) == 2


def test_a_cache_of_nothing_is_refused(model):
    with pytest.raises(OutOfMemory, match="holds 0 tokens"):
        blocks(model, kv_cache_memory=999)


@pytest.mark.parametrize("backend", ["auto", "cpu", "reference"])
def test_a_built_runner_computes(model, runner_of, drive, backend):
    """From a configuration to tokens, with the phases in order and each up to 1."""
    heard: list[tuple[str, float]] = []
    config = ServeConfig(model=model, kv_cache_memory=1 << 20, threads=1, attention_backend=backend)
    runner = build_runner(config, read_model_info(model), lambda phase, done: heard.append((phase, done)))
    assert torch.get_num_threads() == 1
    assert (runner.block_size, runner.num_blocks) == (16, (1 << 20) // (16 * 2 * 3 * 2 * 16 * 4))
    assert [phase for phase, done in heard if done == 1.0] == ["weights", "warmup"]
    assert heard == sorted(heard, key=lambda entry: (entry[0] == "warmup", entry[1]))
    assert drive(runner, GREEDY_PROMPTS, 5) == drive(runner_of(model, "reference"), GREEDY_PROMPTS, 5)


def test_a_cache_smaller_than_the_warm_up_is_warmed_up_within_it(model):
    config = ServeConfig(model=model, kv_cache_memory=8000, block_size=4)
    assert build_runner(config, read_model_info(model), lambda _phase, _done: None).num_blocks == 2


def test_a_backend_that_the_device_cannot_run_is_the_users_error(model):
    config = ServeConfig(model=model, attention_backend="cuda-magic")
    with pytest.raises(InvalidArgument, match="'cuda-magic' is unknown; known are auto, reference, cpu, triton"):
        build_runner(config, read_model_info(model), lambda _phase, _done: None)


def test_a_size_of_graphs_is_refused_on_a_cpu_before_weights_are_read(model):
    config, heard = ServeConfig(model=model, max_cudagraph_capture_size=8), []
    with pytest.raises(InvalidArgument, match=r"--max-cudagraph-capture-size 8: .* since the device is cpu"):
        build_runner(config, read_model_info(model), lambda _phase, done: heard.append(done))
    assert heard == [0.0]


@pytest.mark.parametrize("backend", ["auto", "reference"])
@pytest.mark.parametrize(("cache", "row"), [("fp8_e4m3", 16), ("int8", 16 + 2)])
def test_a_cache_of_eight_bits_holds_more_tokens_and_answers(model, drive, backend, cache, row):
    """Both backends give the same tokens over it, and `row` is the bytes of a head's 16 numbers with their scale."""
    config = ServeConfig(model, kv_cache_memory=1 << 20, threads=1, attention_backend=backend, kv_cache_dtype=cache)
    runner = build_runner(config, read_model_info(model), lambda _phase, _done: None)
    assert runner.num_blocks == (1 << 20) // (16 * 2 * 3 * 2 * row)
    tokens = drive(runner, GREEDY_PROMPTS, 5)
    decoder = load_decoder(read_model_info(model), ReferenceBackend(), device=CPU, dtype=torch.float32)
    plain = TorchRunner(decoder, num_blocks=64, block_size=16, device=CPU, dtype=CACHE_DTYPES[cache])
    assert tokens == drive(plain, GREEDY_PROMPTS, 5, chunk=1)


@pytest.mark.parametrize(
    ("capability", "allowed"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((8, 9), True), ((9, 0), True)]
)
def test_gpus_that_do_not_convert_eight_bits_refuse_them(monkeypatch, capability, allowed):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)
    gpu = torch.device("cuda")
    assert choose_cache_dtype("auto", torch.bfloat16, gpu) == torch.bfloat16
    for asked, dtype in (("fp8_e4m3", torch.float8_e4m3fn), ("int8", torch.int8)):
        if allowed:
            assert choose_cache_dtype(asked, torch.bfloat16, gpu) == dtype
            continue
        words = rf"--kv-cache-dtype {asked} needs a GPU of compute capability 8\.0 or later; this one's is 7\.5"
        with pytest.raises(InvalidArgument, match=words):
            choose_cache_dtype(asked, torch.bfloat16, gpu)

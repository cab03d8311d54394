"""From a configuration to a runner that is ready: threads, device, weights, KV cache, first step."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.select import select_backend
from octavo_runtime.core.batch import FlatBatch, SamplingRow
from octavo_runtime.errors import InvalidArgument, OutOfMemory
from octavo_runtime.model.load import load_decoder
from octavo_runtime.model.shard import WHOLE, check_divisible
from octavo_runtime.runner.cuda import CudaCapturer, PinnedMemory
from octavo_runtime.runner.graphs import choose_limits
from octavo_runtime.runner.machine import (
    choose_cache_dtype,
    choose_device,
    choose_dtype,
    choose_step_tokens,
    choose_threads,
    host_free_memory,
)
from octavo_runtime.runner.torch_runner import TorchRunner

if TYPE_CHECKING:
    from collections.abc import Callable

    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.model.shard import Shard
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.parallel.workers import Workers
    from octavo_runtime.runner.base import Fatal, Progress

logger = logging.getLogger(__name__)

_CPU_SHARE: Final = 0.5  # of the memory free after loading; the rest is for activations, the API process and neighbours
_GPU_SHARE: Final = 0.92  # of the memory free after a profile run; the rest is for fragmentation
_CPU_WARMUP_TOKENS: Final = 16


def build_torch_runner(
    config: ServeConfig, info: ModelInfo, progress: Progress, fatal: Fatal | None = None
) -> TorchRunner:
    """What build.py's `build_runner` does once torch may be imported."""
    device = prepare_torch(config)
    dtype = choose_dtype(config.dtype, info, device)
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, dtype, device)
    backend = select_kernels(config, device)
    limits = choose_limits(config, info, device, backend)
    workers = _start_workers(config, info, device, fatal) if config.tensor_parallel_size > 1 else None
    try:
        decoder = load_decoder(
            info,
            backend,
            device=device,
            dtype=dtype,
            max_len=config.max_model_len,
            shard=workers.shard if workers else WHOLE,
            group=workers.group if workers else None,
            progress=lambda done: progress("weights", done),
        )
        if workers:
            workers.wait_until_loaded()
        progress("warmup", 0.0)
        runner = _with_cache(config, info, decoder, device, dtype=cache_dtype, workers=workers)
        if limits is not None:
            limits = replace(limits, blocks=min(limits.blocks, runner.num_blocks))
            runner.capture_decodes(limits, CudaCapturer(), PinnedMemory(device))
        _step(runner, _warmup_tokens(config, runner))
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{info.path} does not fit on {device}: {error}") from error
    progress("warmup", 1.0)
    return runner


def _start_workers(config: ServeConfig, info: ModelInfo, device: torch.device, fatal: Fatal | None) -> Workers:
    """The other ranks. Raises `InvalidArgument` when the model or the machine cannot have so many."""
    from octavo_runtime.parallel.workers import Workers, end_process  # noqa: PLC0415  only who divides needs it

    check_divisible(info, config.tensor_parallel_size)
    if device.type == "cuda" and torch.cuda.device_count() < config.tensor_parallel_size:
        raise InvalidArgument(
            f"--tensor-parallel-size {config.tensor_parallel_size}: there are {torch.cuda.device_count()} GPUs"
        )
    return Workers(config, device, fatal or end_process)


def select_kernels(config: ServeConfig, device: torch.device) -> KernelBackend:
    try:
        return select_backend(config.attention_backend, device)
    except ValueError as error:
        raise InvalidArgument(str(error)) from error


def prepare_torch(config: ServeConfig, shard: Shard = WHOLE) -> torch.device:
    """The rank's device and its part of the threads."""
    torch.set_num_threads(max(1, (config.threads or choose_threads()) // config.tensor_parallel_size))
    device = choose_device()
    if device.type == "cuda":
        torch.cuda.set_device(shard.rank)
    logger.info("computing on %s with %d threads", device, torch.get_num_threads())
    return device


def _with_cache(
    config: ServeConfig,
    info: ModelInfo,
    decoder: AnyDecoder,
    device: torch.device,
    *,
    dtype: torch.dtype,
    workers: Workers | None,
) -> TorchRunner:
    def runner(num_blocks: int) -> TorchRunner:
        kind = workers.runner if workers else TorchRunner
        return kind(decoder, num_blocks=num_blocks, block_size=config.block_size, device=device, dtype=dtype)

    token_bytes = sum(shape.bytes_per_token(dtype.itemsize) for shape in decoder.cache_shapes)
    block_bytes = config.block_size * token_bytes
    if device.type == "cuda":
        free = _free_after_profile(runner, config, device)
        share = _GPU_SHARE
    else:
        free, share = host_free_memory() // config.tensor_parallel_size, _CPU_SHARE
    if workers and device.type == "cuda":
        free = min(free, workers.least_free())
    num_blocks = count_blocks(config, info, block_bytes=block_bytes, free=free, share=share)
    logger.info(
        "KV cache: %d blocks of %d tokens, %d MiB of %d MiB free",
        num_blocks, config.block_size, num_blocks * block_bytes >> 20, free >> 20,
    )  # fmt: skip
    return runner(num_blocks)


def count_blocks(config: ServeConfig, info: ModelInfo, *, block_bytes: int, free: int, share: float) -> int:
    """Blocks that the KV cache gets: `kv_cache_memory` if set, else `share` of the `free` bytes, but never more than
    `max_num_seqs` sequences of full length could fill.

    Raises `OutOfMemory` when the memory asked for is not there, or holds less than one sequence of full length that
    was asked for by name.
    """
    longest = config.max_model_len or info.max_positions
    per_sequence = -(-longest // config.block_size)
    memory = config.kv_cache_memory or int(free * share)
    if memory > free:
        raise OutOfMemory(f"kv_cache_memory is {memory >> 20} MiB; {free >> 20} MiB are free after loading the model")
    num_blocks = min(memory // block_bytes, per_sequence * config.max_num_seqs)
    needed = per_sequence if config.max_model_len is not None else 1
    if num_blocks < needed:
        raise OutOfMemory(
            f"a KV cache of {memory >> 20} MiB holds {num_blocks * config.block_size} tokens; one sequence of "
            f"{longest} needs {needed * block_bytes >> 20} MiB: raise kv_cache_memory or lower max_model_len"
        )
    return num_blocks


def _free_after_profile(make: Callable[[int], TorchRunner], config: ServeConfig, device: torch.device) -> int:
    """Bytes free on the GPU once the largest step has taken what it needs: its peak is never for the cache to have."""
    step_tokens = config.max_num_batched_tokens or choose_step_tokens(device)
    runner = make(-(-step_tokens // config.block_size))
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    _step(runner, step_tokens)
    activations = torch.cuda.max_memory_allocated(device) - before
    del runner
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info(device)
    return max(0, free - activations)


def _step(runner: TorchRunner, num_tokens: int) -> None:
    """Prefill one sequence of `num_tokens` tokens in the first blocks, then decode one in its last place."""
    last = num_tokens - 1
    _execute(runner, range(num_tokens))
    _execute(runner, range(last, num_tokens))


def _execute(runner: TorchRunner, positions: range) -> None:
    num_blocks = -(-positions.stop // runner.block_size)
    runner.execute(
        FlatBatch(
            token_ids=[0] * len(positions),
            positions=list(positions),
            slot_mapping=list(positions),
            query_start_loc=[0, len(positions)],
            seq_lens=[positions.stop],
            block_tables=[list(range(num_blocks))],
            sample_rows=[len(positions) - 1],
            sampling=[SamplingRow(temperature=1.0, top_p=0.9, top_k=0, seed=0, position=positions.stop)],
        )
    )


def _warmup_tokens(config: ServeConfig, runner: TorchRunner) -> int:
    """A GPU meets its largest step here, for its kernels' sake; on a CPU that would take seconds and teach nothing."""
    most = min(config.max_num_batched_tokens or runner.step_tokens, runner.num_blocks * runner.block_size)
    return min(most, _CPU_WARMUP_TOKENS) if runner.device.type == "cpu" else most

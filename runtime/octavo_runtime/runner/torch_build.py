"""From a configuration to a runner that is ready: threads, device, weights, KV cache, first step."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import torch

from octavo_kernels.cache_dtype import scale_bytes_of
from octavo_kernels.select import select_backend
from octavo_runtime.core.batch import FlatBatch, SamplingParams, SamplingRow, Shaping
from octavo_runtime.errors import InvalidArgument, OutOfMemory
from octavo_runtime.model.load import load_decoder
from octavo_runtime.model.shard import WHOLE
from octavo_runtime.parallel.topology import topology_of
from octavo_runtime.runner.cuda import CudaCapturer, CudaGauge, PinnedMemory, describe_device
from octavo_runtime.runner.graphs import choose_limits
from octavo_runtime.runner.kv_cache import build_measured, count_blocks, largest_batch, measure_free
from octavo_runtime.runner.machine import (
    choose_cache_dtype,
    choose_device,
    choose_dtype,
    choose_step_tokens,
    choose_threads,
    host_free_memory,
    return_free_memory,
)
from octavo_runtime.runner.plan_file import PlanFile, make_key, plan_folders
from octavo_runtime.runner.torch_runner import TorchRunner

if TYPE_CHECKING:
    from octavo_kernels.interface import KernelBackend
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.model.shard import Shard
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.parallel.meeting import Called
    from octavo_runtime.parallel.workers import Workers
    from octavo_runtime.runner.base import Fatal, Progress
    from octavo_runtime.runner.graphs import GraphLimits

logger = logging.getLogger(__name__)

_CPU_SHARE: Final = 0.5  # of the memory free after loading; the rest is for activations, the API process and neighbours
_GPU_SHARE: Final = 0.92  # of the memory free after a profile run; the rest is for fragmentation
_CPU_WARMUP_TOKENS: Final = 16
# So that no request is the first to need the kernel that shapes logits.
_BIASED: Final = Shaping(SamplingParams(max_tokens=1, logit_bias=((0, 1.0),)), tokens=[0], num_prompt_tokens=0)


def build_torch_runner(
    config: ServeConfig, info: ModelInfo, progress: Progress, fatal: Fatal | None, called: Called | None
) -> TorchRunner:
    """What build.py's `build_runner` does once torch may be imported. `called`: the other ranks, if there are any."""
    device = prepare_torch(config)
    dtype = choose_dtype(config.dtype, info, device)
    cache_dtype = choose_cache_dtype(config.kv_cache_dtype, dtype, device)
    backend = select_kernels(config, device)
    limits = choose_limits(config, info, device, backend)
    workers = _start_workers(config, called, device, fatal) if called else None
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
        return_free_memory()
        if workers:
            workers.wait_until_loaded()
        progress("warmup", 0.0)
        runner = _with_cache(
            config,
            info,
            decoder,
            device,
            dtype=dtype,
            cache_dtype=cache_dtype,
            workers=workers,
            limits=limits,
            kernels=backend if backend.name == "triton" else None,  # elsewhere torch samples at least as fast
        )
    except torch.OutOfMemoryError as error:
        raise OutOfMemory(f"{info.path} does not fit on {device}: {error}") from error
    progress("warmup", 1.0)
    return runner


def _start_workers(config: ServeConfig, called: Called, device: torch.device, fatal: Fatal | None) -> Workers:
    """The other ranks. Raises `InvalidArgument` when this machine cannot have its part of them."""
    from octavo_runtime.parallel.workers import Workers, end_process  # noqa: PLC0415  only who divides needs it

    needed = topology_of(config).ranks_per_node
    if device.type == "cuda" and torch.cuda.device_count() < needed:
        divided = f"--tensor-parallel-size {config.tensor_parallel_size} --nodes {config.nodes}"
        raise InvalidArgument(f"{divided}: {needed} GPUs are needed on each node; here are {torch.cuda.device_count()}")
    return Workers(config, called, device, fatal or end_process)


def select_kernels(config: ServeConfig, device: torch.device) -> KernelBackend:
    try:
        return select_backend(config.attention_backend, device)
    except ValueError as error:
        raise InvalidArgument(str(error)) from error


def prepare_torch(config: ServeConfig, shard: Shard = WHOLE) -> torch.device:
    """The rank's device and its part of the threads."""
    topology = topology_of(config)
    torch.set_num_threads(max(1, (config.threads or choose_threads()) // topology.ranks_per_node))
    device = choose_device()
    if device.type == "cuda":
        torch.cuda.set_device(topology.local_index(shard.rank))
    logger.info("computing on %s with %d threads", device, torch.get_num_threads())
    return device


def _with_cache(
    config: ServeConfig,
    info: ModelInfo,
    decoder: AnyDecoder,
    device: torch.device,
    *,
    dtype: torch.dtype,
    cache_dtype: torch.dtype,
    workers: Workers | None,
    limits: GraphLimits | None,
    kernels: KernelBackend | None,
) -> TorchRunner:
    """A runner that has computed its first step."""
    row = (cache_dtype.itemsize, scale_bytes_of(cache_dtype))
    block_bytes = config.block_size * sum(shape.bytes_per_token(*row) for shape in decoder.cache_shapes)

    def runner(num_blocks: int) -> TorchRunner:
        kind = workers.runner if workers else TorchRunner
        return kind(
            decoder,
            num_blocks=num_blocks,
            block_size=config.block_size,
            device=device,
            dtype=cache_dtype,
            kernels=kernels,
        )

    def ready(free: int, share: float) -> TorchRunner:
        num_blocks = count_blocks(config, info, block_bytes=block_bytes, free=free, share=share)
        logger.info(
            "KV cache: %d blocks of %d tokens, %d MiB of %d MiB free",
            num_blocks, config.block_size, num_blocks * block_bytes >> 20, free >> 20,
        )  # fmt: skip
        made = runner(num_blocks)
        if limits is not None:
            made.capture_decodes(limits.within(num_blocks), CudaCapturer(), PinnedMemory(device))
        _step(made, _warmup_tokens(config, info, made))
        return made

    if device.type == "cpu":
        free = host_free_memory() // topology_of(config).ranks_per_node
        elsewhere = workers.least_free() if workers and config.nodes > 1 else free
        return ready(min(free, elsewhere), _CPU_SHARE)

    def measure() -> int:
        batch = largest_batch(config, info, step_tokens=choose_step_tokens(device))
        free = measure_free(gauge, runner, batch)
        return min(free, workers.least_free()) if workers else free

    gauge, kept = CudaGauge(device), limits.memory if limits else 0
    key = make_key(config, info, dtype=dtype, cache_dtype=cache_dtype, device=describe_device(device))
    plan = None if workers else PlanFile(plan_folders(config), key)
    return build_measured(gauge, plan, measure, lambda free: ready(max(0, free - kept), _GPU_SHARE))


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
            sampling=[
                SamplingRow(temperature=1.0, top_p=0.9, top_k=0, seed=0, position=positions.stop, shaping=_BIASED)
            ],
        )
    )


def _warmup_tokens(config: ServeConfig, info: ModelInfo, runner: TorchRunner) -> int:
    """A GPU meets its longest prompt here, for its kernels' sake; a CPU would take seconds and learn nothing."""
    longest = min(config.max_model_len or info.max_positions, info.max_positions)
    most = min(config.max_num_batched_tokens or runner.step_tokens, runner.num_blocks * runner.block_size, longest)
    return min(most, _CPU_WARMUP_TOKENS) if runner.device.type == "cpu" else most

"""A worker: its part of the weights and of the KV cache, and rank 0's steps on them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec
import torch

from octavo_runtime.model.load import load_decoder
from octavo_runtime.model.shard import Shard
from octavo_runtime.parallel.group import join, reach_store
from octavo_runtime.parallel.lockstep import LockstepRunner, OutOfStepError
from octavo_runtime.parallel.messages import Allocate, Compute, Free, Loaded, Measure, ToWorker
from octavo_runtime.parallel.topology import topology_of
from octavo_runtime.runner.machine import choose_cache_dtype, choose_dtype, host_free_memory, return_free_memory
from octavo_runtime.runner.torch_build import prepare_torch, select_kernels

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

    from octavo_runtime.core.batch import FlatBatch
    from octavo_runtime.model.spec import ModelInfo
    from octavo_runtime.parallel.messages import FromWorker, WorkerArgs

logger = logging.getLogger(__name__)


class Worker:
    """Does what rank 0 says."""

    def __init__(self, args: WorkerArgs, info: ModelInfo) -> None:
        """Join the others, then load. Raises `StartError`."""
        config = args.config
        shard = Shard(args.rank, config.tensor_parallel_size)
        self._config = config
        self._device = prepare_torch(config, shard)
        store = reach_store(args.meeting, shard.size)
        group = join(shard, store, args.meeting, args.interface, self._device)
        self._dtype = choose_dtype(config.dtype, info, self._device)
        self._decoder = load_decoder(
            info,
            select_kernels(config, self._device),
            device=self._device,
            dtype=self._dtype,
            max_len=config.max_model_len,
            shard=shard,
            group=group,
        )
        return_free_memory()
        self._runner: LockstepRunner | None = None
        self._before = 0  # bytes that were allocated when the KV cache was there and no step yet

    def run(self, pipe: Connection) -> None:
        """Until rank 0 hangs up. Raises `OutOfStepError` when this rank cannot go on."""
        decoder = msgspec.msgpack.Decoder(ToWorker)
        pipe.send_bytes(msgspec.msgpack.encode(Loaded()))
        while True:
            try:
                message = decoder.decode(pipe.recv_bytes())
            except EOFError:
                return
            if (answer := self.handle(message)) is not None:
                pipe.send_bytes(msgspec.msgpack.encode(answer))

    def handle(self, message: ToWorker) -> FromWorker | None:
        match message:
            case Allocate(num_blocks):
                self._allocate(num_blocks)
            case Compute(batch):
                self._compute(batch)
            case Measure():
                return Free(self._measure())
        return None

    def _allocate(self, num_blocks: int) -> None:
        self._runner = None
        self._runner = LockstepRunner(
            self._decoder,
            num_blocks=num_blocks,
            block_size=self._config.block_size,
            device=self._device,
            dtype=choose_cache_dtype(self._config.kv_cache_dtype, self._dtype, self._device),
        )
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)

    def _compute(self, batch: FlatBatch) -> None:
        assert self._runner is not None, "rank 0 allocates first"
        try:
            self._runner.execute(batch)
        except OutOfStepError:
            raise
        except Exception as error:  # noqa: BLE001  of the batch: rank 0 meets the same, and it is rank 0 that answers
            logger.debug("a step raised %r", error)

    def _measure(self) -> int:
        self._runner = None
        if self._device.type == "cpu":
            return host_free_memory() // topology_of(self._config).ranks_per_node
        activations = torch.cuda.max_memory_allocated(self._device) - self._before
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self._device)
        return max(0, free - activations)

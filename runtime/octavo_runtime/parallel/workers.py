"""Rank 0's view of the other ranks: processes that are started, told what to compute, and watched."""

from __future__ import annotations

import atexit
import logging
import os
import subprocess
import sys
import threading
from multiprocessing.connection import Pipe
from typing import TYPE_CHECKING, Any, Final

import msgspec

from octavo_runtime import errors
from octavo_runtime.engine.process import START_FAILED, encode_args
from octavo_runtime.model.shard import Shard
from octavo_runtime.parallel.group import TorchGroup, join, open_store
from octavo_runtime.parallel.lockstep import LockstepRunner, OutOfStepError
from octavo_runtime.parallel.messages import (
    Allocate,
    Compute,
    Free,
    FromWorker,
    Loaded,
    Measure,
    Refused,
    ToWorker,
    WorkerArgs,
    for_workers,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.batch import FlatBatch, StepResult
    from octavo_runtime.model.decoder import AnyDecoder

logger = logging.getLogger(__name__)

_GRACE: Final = 3.0  # seconds for workers that have been told to end, less than the engine itself gets
_BLAME_WAIT: Final = 1.0  # seconds for the kernel to say which worker a failed step lacked


class Worker:
    """One worker process. Make it in the main thread: the kernel ties a child's life to the thread that made it."""

    def __init__(self, config: ServeConfig, rank: int, store_port: int) -> None:
        self.rank = rank
        self._pipe, theirs = Pipe()
        with theirs:
            args = WorkerArgs(config, rank, store_port, theirs.fileno(), os.getpid())
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "octavo_runtime.parallel", encode_args(args)],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )

    def send(self, message: bytes) -> None:
        self._pipe.send_bytes(message)

    def receive(self) -> FromWorker:
        """Its next answer. Raises `StartError` when it says that it cannot start, or says no more."""
        try:
            message: FromWorker = msgspec.msgpack.decode(self._pipe.recv_bytes(), type=FromWorker)
        except (EOFError, OSError) as error:
            raise errors.EngineFailed(f"rank {self.rank} ended while it was loading the model") from error
        if isinstance(message, Refused):
            raise errors.start_error(message.reason, f"rank {self.rank}: {message.message}")
        return message

    def hang_up(self) -> None:
        self._pipe.close()

    def end(self) -> None:
        try:
            self.process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Workers:
    """Ranks 1 and up. They end with this process, however it ends."""

    def __init__(self, config: ServeConfig, device: torch.device, fatal: Callable[[str], object]) -> None:
        """Start them and wait until all have joined. `fatal` is called with the reason, from any thread, when one of
        them is lost: no step can be computed any more.
        """
        self.shard = Shard(0, config.tensor_parallel_size)
        self._fatal = fatal
        self._closing = False
        self._encoder = msgspec.msgpack.Encoder()
        self._store = open_store(self.shard.size)
        self._workers = [Worker(config, rank, self._store.port) for rank in range(1, self.shard.size)]
        atexit.register(self.close)
        for worker in self._workers:
            threading.Thread(target=self._watch, args=[worker], name=f"rank-{worker.rank}", daemon=True).start()
        self.group: TorchGroup = join(self.shard, self._store, device)

    def wait_until_loaded(self) -> None:
        """Raises the `StartError` of a worker that cannot load its part."""
        for worker in self._workers:
            message = worker.receive()
            assert isinstance(message, Loaded), message

    def runner(self, decoder: AnyDecoder, **settings: Any) -> LeadingRunner:  # noqa: ANN401  TorchRunner's own
        """A runner of all ranks, each with the KV cache that TorchRunner's `settings` say."""
        return LeadingRunner(decoder, self, **settings)

    def least_free(self) -> int:
        """Bytes that are free on the fullest of the workers' devices, once it has dropped its KV cache."""
        self.send(Measure())
        answers = [worker.receive() for worker in self._workers]
        return min(answer.memory for answer in answers if isinstance(answer, Free))

    def send(self, message: ToWorker) -> None:
        """To all of them. One that is gone is reported by whoever waits for its process."""
        encoded = self._encoder.encode(message)
        for worker in self._workers:
            try:
                worker.send(encoded)
            except OSError as error:
                self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Say why no step can be computed any more: a worker that has ended if there is one, else `error`."""
        for worker in self._workers:
            try:
                self._report(worker, worker.process.wait(_BLAME_WAIT))
            except subprocess.TimeoutExpired:
                continue
        self._fatal(f"the ranks are out of step: {error}")

    def close(self) -> None:
        """End them. Those that have nothing to do end by themselves when nobody is left to tell them anything."""
        if self._closing:
            return
        self._closing = True
        for worker in self._workers:
            worker.hang_up()
        for worker in self._workers:
            worker.end()
        atexit.unregister(self.close)

    def _watch(self, worker: Worker) -> None:
        status = worker.process.wait()
        if status != START_FAILED:  # such a worker has said why, and rank 0 reads it
            self._report(worker, status)

    def _report(self, worker: Worker, status: int) -> None:
        if not self._closing:
            self._fatal(f"rank {worker.rank} of {self.shard.size} ended with status {status}")


class LeadingRunner(LockstepRunner):
    """Rank 0's runner: what it computes, the workers compute with it."""

    def __init__(self, decoder: AnyDecoder, workers: Workers, *, num_blocks: int, **settings: Any) -> None:  # noqa: ANN401  TorchRunner's own
        workers.send(Allocate(num_blocks))
        self._workers = workers
        super().__init__(decoder, num_blocks=num_blocks, **settings)

    def execute(self, batch: FlatBatch) -> StepResult:
        self._workers.send(Compute(for_workers(batch)))
        try:
            return super().execute(batch)
        except OutOfStepError as error:
            self._workers.give_up(error)
            raise


def end_process(reason: str) -> None:
    """What a process does that has nobody to tell."""
    logger.error("%s; ending", reason)
    os._exit(1)

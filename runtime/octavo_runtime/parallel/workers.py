"""Rank 0's view of the other ranks, on its own node and on others: started, told what to compute, and watched."""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Final

import msgspec

from octavo_runtime.errors import StartError
from octavo_runtime.model.shard import Shard
from octavo_runtime.parallel.group import TorchGroup, join, open_store
from octavo_runtime.parallel.lockstep import LockstepRunner, OutOfStepError
from octavo_runtime.parallel.messages import Allocate, Compute, Free, Loaded, Measure, for_workers

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from octavo_runtime.config import ServeConfig
    from octavo_runtime.core.batch import FlatBatch, StepResult
    from octavo_runtime.model.decoder import AnyDecoder
    from octavo_runtime.parallel.meeting import Called
    from octavo_runtime.parallel.messages import ToWorker
    from octavo_runtime.parallel.rank_process import RankProcess
    from octavo_runtime.parallel.remote import RemoteNode

logger = logging.getLogger(__name__)

_BLAME_WAIT: Final = 1.0  # seconds for the kernel to say who is missing from a failed step


class Workers:
    """Ranks 1 and up. They end with this process, however it ends."""

    def __init__(
        self, config: ServeConfig, called: Called, device: torch.device, fatal: Callable[[str], object]
    ) -> None:
        """Wait until all have joined. `fatal` is called with the reason, from any thread, when one of them is lost: no
        step can be computed any more.
        """
        self.shard = Shard(0, config.tensor_parallel_size)
        self._fatal = fatal
        self._closing = False
        self._joined = False
        self._encoder = msgspec.msgpack.Encoder()
        self._members = called.members
        self._store = open_store(called.room, called.meeting, self.shard.size)
        atexit.register(self.close)
        for member in self._members:
            threading.Thread(target=self._watch, args=[member], name="rank-watcher", daemon=True).start()
        self.group: TorchGroup = join(self.shard, self._store, called.meeting, called.interface, device)
        self._joined = True

    def wait_until_loaded(self) -> None:
        """Raises the `StartError` of a rank that cannot load its part."""
        for member in self._members:
            message = member.receive()
            assert isinstance(message, Loaded), message

    def runner(self, decoder: AnyDecoder, **settings: Any) -> LeadingRunner:  # noqa: ANN401  TorchRunner's own
        """A runner of all ranks, each with the KV cache that TorchRunner's `settings` say."""
        return LeadingRunner(decoder, self, **settings)

    def least_free(self) -> int:
        """Bytes that the rank with the least has free, once it has dropped its KV cache."""
        self.send(Measure())
        answers = [member.receive() for member in self._members]
        return min(answer.memory for answer in answers if isinstance(answer, Free))

    def send(self, message: ToWorker) -> None:
        """To all of them. One that is gone is reported by whoever waits for its end."""
        encoded = self._encoder.encode(message)
        for member in self._members:
            try:
                member.send(encoded)
            except OSError as error:
                self.give_up(error)

    def give_up(self, error: Exception) -> None:
        """Say why no step can be computed any more: a member that has ended if there is one, else `error`."""
        for member in self._members:
            if (reason := member.why_it_ended(_BLAME_WAIT)) is not None:
                self._report(reason)
        self._report(f"the ranks are out of step: {error}")

    def close(self) -> None:
        """End them. Those that have nothing to do end by themselves when nobody is left to tell them anything."""
        if self._closing:
            return
        self._closing = True
        for member in self._members:
            member.hang_up()
        for member in self._members:
            member.end()
        atexit.unregister(self.close)

    def _watch(self, member: RankProcess | RemoteNode) -> None:
        reason = member.why_it_ended() or ""
        if member.has_explained_itself:
            if self._joined:
                return  # the main thread reads the explanation
            reason = _explanation(member) or reason  # that waits for it to join
        self._report(reason)

    def _report(self, reason: str) -> None:
        if not self._closing:
            self._fatal(reason)


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


def _explanation(member: RankProcess | RemoteNode) -> str | None:
    try:
        member.receive()
    except StartError as error:
        return str(error)
    return None


def end_process(reason: str) -> None:
    """What a process does that has nobody to tell."""
    logger.error("%s; ending", reason)
    os._exit(1)

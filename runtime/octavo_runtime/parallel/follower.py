"""A node that is not the leader: its ranks, and the leader's words passed on to them. Imports no torch.

    leader's engine  ──TCP──>  this process  ──pipes──>  its ranks
                     <──one answer for all───

Any end is the end of all: of the connection, of a rank, of this process (the kernel ends its ranks with it).
"""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import msgspec

from octavo_runtime.errors import EngineFailed, LeaderGone, StartError
from octavo_runtime.parallel import frames
from octavo_runtime.parallel.messages import Free, Loaded, Lost, Measure, Refused
from octavo_runtime.parallel.rank_process import RankProcess
from octavo_runtime.parallel.topology import topology_of

if TYPE_CHECKING:
    from octavo_runtime.config import ServeConfig
    from octavo_runtime.parallel.joining import Link
    from octavo_runtime.parallel.messages import FromWorker

_MEASURE: Final = msgspec.msgpack.encode(Measure())
_LAST_WORDS: Final = 2.0  # seconds for the leader to take them


class Follower:
    """Make it in the main thread, with a running event loop."""

    def __init__(self, config: ServeConfig, link: Link) -> None:
        self.loaded = False
        self.messages = 0  # that the leader has sent to the ranks
        self._link = link
        self._loop = asyncio.get_running_loop()
        self._lost: asyncio.Future[str] = self._loop.create_future()
        ranks = topology_of(config).ranks_of(config.node_rank)
        self._ranks = [RankProcess(config, rank, link.meeting, link.interface) for rank in ranks]
        for rank in self._ranks:
            threading.Thread(target=self._watch, args=[rank], name=f"rank-{rank.rank}", daemon=True).start()

    async def run(self) -> None:
        """Until it is over. Raises `LeaderGone`, or another `StartError` when a rank cannot start or has ended."""
        loading, passing = asyncio.create_task(self._load()), asyncio.create_task(self._pass_on())
        try:
            await _first(loading, passing, self._lost)
            if loading.done():
                loading.result()
                await _first(passing, self._lost)
            if passing.done():
                passing.result()
            await self._say_last(Lost(self._lost.result()))
            raise EngineFailed(self._lost.result())
        finally:
            self._end()
            loading.cancel()
            passing.cancel()
            await asyncio.gather(loading, passing, return_exceptions=True)

    async def _load(self) -> None:
        try:
            for answer in await asyncio.to_thread(self._collect):
                assert isinstance(answer, Loaded), answer
        except StartError as error:
            await self._say_last(Refused(error.reason, str(error)))
            raise
        self.loaded = True
        self._link.send(Loaded())

    async def _pass_on(self) -> None:
        """The leader's messages, in their order. It sends none before it has heard that all are loaded."""
        while True:
            message = await self._hear()
            self.messages += 1
            for rank in self._ranks:
                with suppress(OSError):  # who watches it says that it has ended
                    rank.send(message)
            if message == _MEASURE:
                self._link.send(_least(await asyncio.to_thread(self._collect)))

    async def _hear(self) -> bytes:
        try:
            return await frames.read(self._link.reader, frames.STEP_LIMIT)
        except (EOFError, OSError) as error:
            why = "it closed the connection" if isinstance(error, EOFError) else str(error)
            raise LeaderGone(f"the leader of this node has gone: {why}") from error

    def _collect(self) -> list[FromWorker]:
        """The next answer of each rank. Raises `StartError`."""
        return [rank.receive() for rank in self._ranks]

    async def _say_last(self, message: Refused | Lost) -> None:
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                self._link.send(message)
                await self._link.writer.drain()

    def _watch(self, rank: RankProcess) -> None:
        reason = rank.why_it_ended() or ""
        if not rank.has_explained_itself:
            with suppress(RuntimeError):  # the loop has ended before it
                self._loop.call_soon_threadsafe(self._lose, reason)

    def _lose(self, reason: str) -> None:
        if not self._lost.done():
            self._lost.set_result(reason)

    def _end(self) -> None:
        """What the ranks compute is of no use to anybody, and those that wait for a lost one would never end."""
        self._link.writer.close()
        for rank in self._ranks:
            rank.process.kill()
        for rank in self._ranks:
            rank.end()
            rank.hang_up()


async def _first(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)


def _least(answers: list[FromWorker]) -> Free:
    return Free(min(answer.memory for answer in answers if isinstance(answer, Free)))

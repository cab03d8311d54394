"""Streaming load from a number of users, in a thread of its own, counted so that nothing lost goes unseen."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp

from kit import chat

TOPICS = ("rivers", "bread", "clocks", "lighthouses", "trains", "paper", "bees", "bridges", "maps", "salt")


@dataclass(slots=True)
class Tally:
    """What became of the requests. Read by the caller while the load runs; each field is written by one thread."""

    started: int = 0
    finished: int = 0
    failed: list[str] = field(default_factory=list)  # not answered with 200, or not reached
    cut: list[str] = field(default_factory=list)  # answered, then ended early
    pieces: int = 0
    first_piece_seconds: list[float] = field(default_factory=list)

    @property
    def running(self) -> int:
        return self.started - self.finished - len(self.failed) - len(self.cut)

    def assert_whole(self) -> None:
        """Nothing failed, nothing was cut, and there was something to lose."""
        assert self.finished > 0, "the load finished no request, so it shows nothing"
        for fate, errors in (("failed", self.failed), ("were cut", self.cut)):
            assert not errors, f"{len(errors)} of {self.started} {fate}: {Counter(errors).most_common(3)}"


class Load:
    """`users` closed loops of streamed chats: each asks again when its answer is whole, until `stop`, or `asks` times.

    Use as a context manager. Leaving it lets running streams finish, so that a stream cut late is counted too.
    """

    def __init__(
        self, base_url: str, model: str, *, users: int, max_tokens: int = 64, seed: int = 0, asks: int | None = None
    ) -> None:
        self.tally = Tally()
        self._base_url = base_url
        self._model = model
        self._users = users
        self._max_tokens = max_tokens
        self._asks = asks
        self._random = random.Random(seed)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self.run()), name="load", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(timeout=600)

    async def run(self) -> None:
        """The load itself, for who has a loop of his own."""
        async with chat.one_connection_each() as session:
            await asyncio.gather(*(self._user(session) for _ in range(self._users)))

    async def _user(self, session: aiohttp.ClientSession) -> None:
        asked = 0
        while not self._stop.is_set() and asked != self._asks:
            await self._ask(session)
            asked += 1

    async def _ask(self, session: aiohttp.ClientSession) -> None:
        self.tally.started += 1
        began = time.monotonic()
        pieces = 0
        try:
            async for piece in chat.stream_chat(session, self._base_url, self._body()):
                if pieces == 0:
                    self.tally.first_piece_seconds.append(piece.at - began)
                pieces += 1
                self.tally.pieces += 1
        except chat.StreamCutError as error:
            self.tally.cut.append(str(error))
        except (chat.RequestFailedError, aiohttp.ClientError, TimeoutError) as error:
            self.tally.failed.append(f"{type(error).__name__}: {error}")
            await asyncio.sleep(0.2)  # a server that is away is not hammered
        else:
            self.tally.finished += 1

    def _body(self) -> dict[str, Any]:
        topic = self._random.choice(TOPICS)
        return {
            "model": self._model,
            "messages": [{"role": "user", "content": f"Tell me a long story about {topic}."}],
            "max_tokens": self._max_tokens,
            "temperature": 0.7,
            "seed": self._random.randrange(2**31),
            "ignore_eos": True,
        }

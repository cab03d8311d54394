"""Which requests are held, and whether one more fits. No clock, no I/O but waiting for a change."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

LARGEST_BODY: Final = 16 << 20
"""Bytes of one request. The runtime's own limit is lower, and says so itself; this one only guards the memory."""
MOST_BYTES: Final = 64 << 20
"""Of all held bodies together."""
BYTES_PER_TOKEN: Final = 4
"""Of a prompt in JSON; an estimate for the number of replicas to wake, as llm-d's WVA has it for its queue."""


class FullError(Exception):
    """No more requests can be held; the message has the limit."""


@dataclass(frozen=True, slots=True)
class Count:
    """Held requests and their bytes."""

    requests: int
    size: int


class Ledger:
    """The held requests. `boot` makes its versions differ from those of the process before."""

    def __init__(self, most: int, boot: str) -> None:
        self._most = most
        self._boot = boot
        self._changes = 0
        self._changed = asyncio.Event()
        self.count = Count(0, 0)

    @property
    def version(self) -> str:
        """Another one after every change."""
        return f"{self._boot}-{self._changes}"

    @property
    def tokens(self) -> int:
        """About so many are in the held prompts."""
        return self.count.size // BYTES_PER_TOKEN

    @contextmanager
    def hold(self, size: int) -> Iterator["Place"]:
        """Counts a request of at most `size` bytes until it leaves, or the context. FullError if it does not fit."""
        if self.count.requests >= self._most:
            raise FullError(f"{self.count.requests} requests are held already, of at most {self._most}")
        if self.count.size + size > MOST_BYTES:
            raise FullError(f"{self.count.size + size} bytes of requests would be held, of at most {MOST_BYTES}")
        self.add(1, size)
        place = Place(self, size)
        try:
            yield place
        finally:
            place.leave()

    async def other_than(self, version: str, seconds: float) -> None:
        """Returns as soon as the version is another one, or after so many seconds."""
        if version != self.version:
            return
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            return

    def add(self, requests: int, size: int) -> None:
        """Counts, and wakes those who wait for a change."""
        self.count = Count(self.count.requests + requests, self.count.size + size)
        self._changes += 1
        self._changed.set()
        self._changed = asyncio.Event()


class Place:
    """One held request's."""

    def __init__(self, ledger: Ledger, size: int) -> None:
        self._ledger: Ledger | None = ledger
        self._size = size

    @property
    def held(self) -> bool:
        """Whether it still is."""
        return self._ledger is not None

    def shrink(self, size: int) -> None:
        """Its size is known now, and is no more than it was counted with."""
        if self._ledger is not None and size != self._size:
            self._ledger.add(0, size - self._size)
            self._size = size

    def leave(self) -> None:
        """It is held no more; once is enough."""
        ledger, self._ledger = self._ledger, None
        if ledger is not None:
            ledger.add(-1, -self._size)

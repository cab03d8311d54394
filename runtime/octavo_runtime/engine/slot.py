"""Where a request's news waits for its reader."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from octavo_runtime.core.sequence import FinishReason
    from octavo_runtime.errors import RequestError


class Delta(NamedTuple):
    """All that has happened since the last look."""

    tokens: list[int]
    finish_reason: FinishReason | None


class OutputSlot:
    """One slot, not a queue: what a slow reader has not fetched is merged.

    So it holds at most `max_tokens` ints, and the engine never waits for anybody.
    """

    __slots__ = ("_changed", "_error", "_finish_reason", "_tokens", "request_id")

    def __init__(self, request_id: int) -> None:
        self.request_id = request_id
        self._tokens: list[int] = []
        self._finish_reason: FinishReason | None = None
        self._error: RequestError | None = None
        self._changed = asyncio.Event()

    def put(self, token: int, finish_reason: FinishReason | None) -> None:
        self._tokens.append(token)
        self._finish_reason = finish_reason
        self._changed.set()

    def fail(self, error: RequestError) -> None:
        """End the request with an error; tokens that nobody has fetched are still handed out before it."""
        self._error = error
        self._changed.set()

    async def get(self, patience: float) -> Delta:
        """Take all news; wait for some up to `patience` seconds, then return an empty delta. Safe to cancel.

        Raises the error that ended the request.
        """
        if not self._changed.is_set() and not await self._wait(patience):
            return Delta([], None)
        self._changed.clear()
        if self._error is not None:
            if not self._tokens:
                raise self._error
            self._changed.set()
        tokens, self._tokens = self._tokens, []
        return Delta(tokens, self._finish_reason)

    async def _wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._changed.wait()
        except TimeoutError:
            return False

"""Where a request's news waits for its reader."""

from __future__ import annotations

import asyncio
from array import array
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from octavo_runtime.core.batch import TokenLogprobs
    from octavo_runtime.core.outputs import Output
    from octavo_runtime.core.sequence import FinishReason
    from octavo_runtime.errors import RequestError


class Delta(NamedTuple):
    """All that has happened since the last look."""

    tokens: Sequence[int] = ()
    finish_reason: FinishReason | None = None
    logprobs: Sequence[TokenLogprobs] = ()  # one per token, where asked for
    prompt_logprobs: Sequence[TokenLogprobs] = ()


class OutputSlot:
    """One slot, not a queue: what a slow reader has not fetched is merged.

    So it holds at most `max_tokens` tokens of four bytes, and the engine never waits for anybody.
    """

    __slots__ = (
        "_changed",
        "_error",
        "_finish_reason",
        "_logprobs",
        "_prompt_logprobs",
        "_tokens",
        "cached_tokens",
        "request_id",
    )

    def __init__(self, request_id: int) -> None:
        self.request_id = request_id
        self.cached_tokens = 0  # of the prompt, found in the prefix cache; known before the first token
        self._tokens = array("I")
        self._logprobs: list[TokenLogprobs] = []
        self._prompt_logprobs: list[TokenLogprobs] = []
        self._finish_reason: FinishReason | None = None
        self._error: RequestError | None = None
        self._changed = asyncio.Event()

    def put(self, output: Output) -> None:
        self._tokens.extend(output.tokens)
        self._logprobs += output.logprobs or ()
        self._prompt_logprobs += output.prompt_logprobs or ()
        self._finish_reason = output.finish_reason
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
            return Delta()
        self._changed.clear()
        if self._error is not None:
            if not self._tokens:
                raise self._error
            self._changed.set()
        delta = Delta(self._tokens.tolist(), self._finish_reason, self._logprobs, self._prompt_logprobs)
        self._tokens, self._logprobs, self._prompt_logprobs = array("I"), [], []
        return delta

    async def _wait(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                return await self._changed.wait()
        except TimeoutError:
            return False

"""How many held requests go to the replicas at once, when the first of several has come.

    nobody there ──> shut: a request goes while fewer than the share are under way, or else when one of those ends
    5 s later    ──> twice the share, then four times ...
    nobody waits ──> open: all go

All connections lead to the replicas that are there, and the first comes alone. Beyond its share, what it runs at the
same time, it would only queue what the next ones could begin with; so nobody begins later for having been kept here.
Who else is there the activator does not know (upstream.py), hence the growth: in 5 s the next one has come, or the
first one has ended some, or the queue is better off where the autoscaler sees it.
"""

import asyncio
import math
from collections import deque
from typing import Final

GROWTH_SECONDS: Final = 5.0


class Gate:
    """Requests that are under way, and those that wait for their turn, first come first served."""

    def __init__(self, share: int) -> None:
        self._share = share
        self._shut = False
        self._since: float | None = None
        self._turns: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.under_way = 0

    @property
    def allowed(self) -> float:
        """Requests that may be under way now."""
        if not self._shut:
            return math.inf
        return math.ldexp(self._share, min(64, int(self._elapsed() / GROWTH_SECONDS)))

    def shut(self) -> None:
        """Nobody was there. The time counts from the first request that goes after that."""
        self._shut, self._since = True, None

    def passage(self) -> "Passage":
        """That of one request."""
        return Passage(self)

    async def enter(self) -> None:
        """Waits for its turn. Whoever entered leaves."""
        if self._turns or self.under_way >= self.allowed:
            turn = asyncio.get_running_loop().create_future()
            self._turns.append(turn)
            self._let_in()
            try:
                await turn
            except asyncio.CancelledError:
                self._give_up(turn)
                raise
        else:
            self._admit()

    def leave(self) -> None:
        """One less under way."""
        self.under_way -= 1
        self._let_in()

    def _give_up(self, turn: "asyncio.Future[None]") -> None:
        if turn.cancelled():
            self._let_in()
        else:
            self.leave()

    def _admit(self) -> None:
        self.under_way += 1
        if self._shut and self._since is None:
            self._since = asyncio.get_running_loop().time()

    def _let_in(self) -> None:
        while self._turns and (self._turns[0].cancelled() or self.under_way < self.allowed):
            turn = self._turns.popleft()
            if not turn.cancelled():
                self._admit()
                turn.set_result(None)
        if not self._turns and self._since is not None:
            self._shut, self._since = False, None
        self._wait()

    def _wait(self) -> None:
        """Looks again when more are allowed, while anybody waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._turns:
            rest = GROWTH_SECONDS - self._elapsed() % GROWTH_SECONDS
            self._timer = asyncio.get_running_loop().call_later(rest, self._let_in)

    def _elapsed(self) -> float:
        return 0.0 if self._since is None else asyncio.get_running_loop().time() - self._since


class Passage:
    """One request's: it leaves at most once for each time that it entered."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._inside = False

    async def enter(self) -> None:
        """Waits for its turn."""
        await self._gate.enter()
        self._inside = True

    def leave(self) -> None:
        """It is under way no more, if it was."""
        if self._inside:
            self._inside = False
            self._gate.leave()

"""Whether an engine that ended is started again, and when. No clock, no processes.

| it had loaded the model    | start again at once: clients wait, and the cause is mostly one request         |
| it ended while it loaded   | wait 1, 2, 4 … 30 s first: what is missing (memory, a device) may come back    |
| no engine ever loaded it   | give up: the reason is the user's to mend                                      |
| too many deaths in a while | give up: the process ends, and Kubernetes backs off or puts the pod elsewhere  |
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

WINDOW: Final = 600.0  # seconds in which deaths are counted together
_FIRST_DELAY: Final = 1.0  # seconds
_LONGEST_DELAY: Final = 30.0


@dataclass(frozen=True, slots=True)
class Restart:
    delay: float  # seconds
    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    reason: str


class RestartPolicy:
    """Remembers deaths. `limit` of them within `WINDOW` seconds are mended, one more is not."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._deaths: deque[float] = deque()
        self._failed_starts = 0  # in a row
        self._ever_ready = False

    def engine_died(self, now: float, *, was_ready: bool) -> Restart | GiveUp:
        """Take note of an engine's end at `now` (seconds), and decide. `was_ready`: it had loaded the model."""
        self._ever_ready |= was_ready
        self._failed_starts = 0 if was_ready else self._failed_starts + 1
        self._deaths.append(now)
        while self._deaths[0] <= now - WINDOW:
            self._deaths.popleft()
        return self._decide()

    def _decide(self) -> Restart | GiveUp:
        if not self._ever_ready:
            return GiveUp("it could not start")
        if len(self._deaths) > self._limit:
            return GiveUp(f"it ended {len(self._deaths)} times within {WINDOW:.0f} s; {self._limit} are allowed")
        if self._failed_starts == 0:
            return Restart(0.0, "it had been ready")
        delay = min(_FIRST_DELAY * 2 ** (self._failed_starts - 1), _LONGEST_DELAY)
        return Restart(delay, f"{self._failed_starts} starts in a row have failed")

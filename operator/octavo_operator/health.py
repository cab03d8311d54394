"""Whether the operator still does its work: its loops turn, and the watch delivers."""

from collections.abc import Callable
from typing import Final

LONGEST_SILENCE: Final = 120.0
"""Longer than a reconcile whose every request runs into its deadline: an outage is no reason to restart."""


class Health:
    """Heartbeats of the loops, and the resync's finding about the watch."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._beats: dict[str, float] = {}
        self.synced = False
        self.missed_events: str | None = None
        """What the watch should have delivered and did not; None while it does its work (see resync.py)."""

    def beat(self, loop: str) -> None:
        """The loop of that name has just turned."""
        self._beats[loop] = self._clock()

    def rest(self, *loops: str) -> None:
        """These loops have been ended on purpose."""
        for loop in loops:
            self._beats.pop(loop, None)

    def problems(self) -> tuple[str, ...]:
        """Why the process should be restarted; () when it should not. An unreachable API server is no such reason."""
        now = self._clock()
        stuck = [
            f"loop {name} has not turned for {now - beat:.0f} s"
            for name, beat in self._beats.items()
            if now - beat > LONGEST_SILENCE
        ]
        return tuple(stuck + ([self.missed_events] if self.missed_events else []))

"""The one gate through which every write to the cluster goes: open only while this process certainly leads.

The clock counts the time that the machine sleeps, where the system offers one that does: a lease expires meanwhile.
What no clock can see is a pause between the question and the system call that sends the bytes, a millisecond apart;
there the resource versions in the writes are the second gate (cluster.py).
"""

import time
from collections.abc import Callable
from typing import Final

from octavo_operator.core.errors import Unavailable
from octavo_operator.core.lease import NEVER, Timing

_CLOCK: Final = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


class NotLeading(Unavailable):
    """A write was held back, because somebody else may lead by now."""


def monotonic() -> float:
    """Seconds on the clock that leases are judged by."""
    return time.clock_gettime(_CLOCK)


class Fence:
    """Holds back writes from the moment `lead_until` on."""

    def __init__(self, timing: Timing, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self.write_timeout = timing.request
        """Seconds that a write may take, so that it cannot arrive after the lease."""
        self.lead_until = NEVER

    @property
    def is_open(self) -> bool:
        """Whether a write may leave now."""
        return self._clock() < self.lead_until

    def check(self, what: str) -> None:
        """NotLeading unless a write may leave now."""
        if not self.is_open:
            raise NotLeading(f"{what}: held back, this operator does not lead")

"""How far a transfer is, how fast, and how long it will take. Pure: time is an argument."""

from __future__ import annotations

from collections import deque
from typing import Final

_WINDOW: Final = 10.0  # seconds that the speed is measured over


class Meter:
    """Counts bytes of `total`; those that were there at the start do not make it faster."""

    def __init__(self, total: int, done: int, now: float) -> None:
        self.total = total
        self.done = done
        self._points: deque[tuple[float, int]] = deque([(now, done)])

    def set(self, done: int, now: float) -> None:
        self.done = done
        self._points.append((now, done))
        while len(self._points) > 2 and self._points[1][0] <= now - _WINDOW:
            self._points.popleft()

    @property
    def share(self) -> float:
        """0 to 1."""
        return min(1.0, self.done / self.total) if self.total else 1.0

    @property
    def speed(self) -> float:
        """Bytes per second over the last seconds."""
        (start, before), (end, after) = self._points[0], self._points[-1]
        return max(0.0, (after - before) / (end - start)) if end > start else 0.0

    @property
    def seconds_left(self) -> float | None:
        """None when nothing moves."""
        return (self.total - self.done) / self.speed if self.speed else None

    def __str__(self) -> str:
        left = self.seconds_left
        eta = "unknown time" if left is None else f"{left:.0f} s"
        return f"{self.share:.0%} of {self.total / 1e6:.1f} MB, {self.speed / 1e6:.1f} MB/s, {eta} left"

"""Steps that say what they do and how long it takes.

On a terminal the running step is one line that is redrawn; anywhere else it is a line at least every 15 seconds, so
that a log shows the difference between slow and stuck.
"""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

_REDRAW_SECONDS = 0.2
_REPORT_SECONDS = 15.0


def seconds(elapsed: float) -> str:
    """`4.2s`, `38s` or `6m05s`."""
    if elapsed < 10:
        return f"{elapsed:.1f}s"
    if elapsed < 60:
        return f"{elapsed:.0f}s"
    return f"{int(elapsed) // 60}m{int(elapsed) % 60:02d}s"


class Step:
    """One running step; `note` tells what it is at now."""

    def __init__(self, title: str, stream: TextIO) -> None:
        self.title = title
        self._stream = stream
        self._started = time.monotonic()
        self._note = ""
        self._done = threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)
        self._ticker.start()

    def note(self, text: str) -> None:
        self._note = text

    def finish(self, verdict: str) -> None:
        self._done.set()
        self._ticker.join()
        clear = "\r\033[K" if self._stream.isatty() else ""
        detail = f": {self._note}" if self._note and verdict == "failed" else ""
        self._write(f"{clear}{verdict:>7}  {self.title}{detail} ({self.elapsed})\n")

    @property
    def elapsed(self) -> str:
        return seconds(time.monotonic() - self._started)

    def _tick(self) -> None:
        terminal = self._stream.isatty()
        while not self._done.wait(_REDRAW_SECONDS if terminal else _REPORT_SECONDS):
            line = f"{'...':>7}  {self.title} ({self.elapsed})" + (f": {self._note}" if self._note else "")
            self._write(f"\r\033[K{line[:118]}" if terminal else f"{line}\n")

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


class Progress:
    """Prints steps to a stream (standard error, so that standard output stays machine readable)."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        step = Step(title, self._stream)
        try:
            yield step
        except BaseException:
            step.finish("failed")
            raise
        step.finish("ok")

    def say(self, text: str) -> None:
        print(f"{'':>7}  {text}", file=self._stream, flush=True)

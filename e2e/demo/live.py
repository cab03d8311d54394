"""The demo's screen: numbered steps with elapsed time, and one line on the ModelServer that follows its status."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kit.kube import ModelServerView
    from kit.load import Tally

QUIET_SECONDS = 10.0  # without a terminal: at most one line in this time while nothing changes


class Screen:
    """Prints steps. On a terminal the ModelServer's state is redrawn in place, elsewhere it is a line per change."""

    def __init__(self) -> None:
        self.console = Console(highlight=False, soft_wrap=True)
        self._began = time.monotonic()
        self._steps = 0

    @contextmanager
    def step(self, title: str) -> Iterator[None]:
        self._steps += 1
        began = time.monotonic()
        self.console.print(f"[bold cyan]{self._steps}. {title}[/]  [dim](+{began - self._began:.0f} s)[/]")
        yield
        self.console.print(f"   [green]done[/] in {time.monotonic() - began:.1f} s")

    def say(self, text: str) -> None:
        self.console.print(Text(f"   {text}"))

    def follow(
        self,
        what: str,
        look: Callable[[], ModelServerView | None],
        done: Callable[[ModelServerView], bool],
        *,
        seconds: float,
        tallies: tuple[Tally, ...] = (),
    ) -> ModelServerView:
        """Show the ModelServer until `done`; raises TimeoutError with its last state after `seconds`."""
        deadline = time.monotonic() + seconds
        with self._follower() as show:
            while True:
                view = look()
                if view is not None:
                    show(view, tallies)
                    if done(view):
                        return view
                if time.monotonic() > deadline:
                    state = describe(view) if view else "no such ModelServer"
                    raise TimeoutError(f"waited {seconds:.0f} s for {what}; it is now: {state}")
                time.sleep(0.5)

    @contextmanager
    def _follower(self) -> Iterator[Callable[[ModelServerView, tuple[Tally, ...]], None]]:
        if self.console.is_terminal:
            with Live(console=self.console, refresh_per_second=4, transient=False) as live:
                yield lambda view, tallies: live.update(_table(view, tallies))
        else:
            yield self._line_per_change()

    def _line_per_change(self) -> Callable[[ModelServerView, tuple[Tally, ...]], None]:
        last, at = "", 0.0

        def show(view: ModelServerView, tallies: tuple[Tally, ...]) -> None:
            nonlocal last, at
            line = describe(view)
            if line != last or time.monotonic() - at > QUIET_SECONDS:
                last, at = line, time.monotonic()
                self.say(f"[{at - self._began:5.0f} s] {line}{_load_words(tallies)}")

        return show


def describe(view: ModelServerView) -> str:
    """One line: replicas, load, and the words of the Ready condition."""
    ready = view.condition("Ready")
    load = view.load
    numbers = f"KV {load.get('kvUtilizationPercent', '-')} %, waiting {load.get('waiting', '-')}"
    return (
        f"ready {view.ready_replicas}/{view.desired_replicas}, {numbers}; "
        f"Ready={ready['status']} ({ready['reason']}): {ready['message']}"
    )


def _load_words(tallies: tuple[Tally, ...]) -> str:
    if not tallies:
        return ""
    running, whole = sum(tally.running for tally in tallies), sum(tally.finished for tally in tallies)
    lost = sum(len(tally.failed) + len(tally.cut) for tally in tallies)
    return f" | streams: {running} running, {whole} whole, {lost} lost"


def _table(view: ModelServerView, tallies: tuple[Tally, ...]) -> Table:
    table = Table.grid(padding=(0, 2))
    for condition in view.status.get("conditions", []):
        mark = {"True": "[green]True[/]", "False": "[yellow]False[/]"}.get(condition["status"], condition["status"])
        table.add_row(f"   {condition['type']}", mark, condition["reason"], f"[dim]{condition['message']}[/]")
    table.add_row("   replicas", "", "", describe(view).split(";")[0] + _load_words(tallies))
    if message := view.last_decision.get("message"):
        table.add_row("   decision", "", view.last_decision["reason"], f"[dim]{message}[/]")
    return table

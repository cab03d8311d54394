"""Requests that must be answered by a time, and whether that can still be done."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.core.pace import Pace

if TYPE_CHECKING:
    from octavo_runtime.core.ledger import Ledger
    from octavo_runtime.core.sequence import Sequence


class Deadlines:
    """The sequences with a deadline, and the pace of the engine by which they are judged."""

    def __init__(self, ledger: Ledger, token_budget: int) -> None:
        self._ledger = ledger
        self._token_budget = token_budget
        self._pace = Pace()
        self._planned_at: float | None = None
        self._taken = 0  # tokens of the steps whose results were taken since then
        self._sequences: dict[int, Sequence] = {}

    def add(self, sequence: Sequence) -> None:
        if sequence.deadline is not None:
            self._sequences[sequence.seq_id] = sequence

    def remove(self, sequence: Sequence) -> None:
        self._sequences.pop(sequence.seq_id, None)

    def step_planned(self, now: float) -> None:
        """The time until the next one is planned is how long those take that are taken in between."""
        self._planned_at, self._taken = now, 0

    def step_taken(self, num_tokens: int) -> None:
        """A step of `num_tokens` tokens is done."""
        self._taken += num_tokens

    def paused(self) -> None:
        """What follows is not a step's time."""
        self._planned_at = None

    def late(self, now: float) -> list[Sequence]:
        """The sequences that cannot be answered in time any more.

        One that runs is late when its deadline is over: whoever asked has stopped listening. One that waits is late
        when its prompt alone, computed next and in steps of its own, would take longer than there is: it is not worth
        its prefill. `Pace` says how long that takes.
        """
        if self._planned_at is not None and self._taken:
            self._pace.observe(self._taken, now - self._planned_at)
        self._planned_at = None
        return [sequence for sequence in self._sequences.values() if self._is_late(sequence, now)]

    def check_integrity(self, live: dict[int, Sequence]) -> None:
        """Raise `AssertionError` when a sequence that is gone still has a deadline."""
        assert self._sequences.keys() <= live.keys(), "a deadline of nobody"

    def _is_late(self, sequence: Sequence, now: float) -> bool:
        assert sequence.deadline is not None, "only sequences with a deadline are asked"
        left = sequence.deadline - now
        if sequence.admitted or left <= 0:
            return left <= 0
        if self._pace.prefill_seconds(sequence.num_tokens, self._token_budget) < left:
            return False
        cached = len(self._ledger.cached_blocks(sequence)) * self._ledger.pool.block_size
        return self._pace.prefill_seconds(sequence.num_tokens - cached, self._token_budget) >= left

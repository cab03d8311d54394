"""Whether the next waiting sequence may start: its known tokens fit now, and everybody's fit later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.core.peak import OutputLengths, projected_peak

if TYPE_CHECKING:
    from octavo_runtime.core.ledger import Ledger
    from octavo_runtime.core.sequence import Sequence


class Admission:
    """Lets sequences in. `begin` a step's admissions with those that run already."""

    def __init__(self, ledger: Ledger, watermark_blocks: int, *, project_peak: bool) -> None:
        """`watermark_blocks` stay free for those that run already. Without `project_peak` only the present counts."""
        self.lengths = OutputLengths()
        self.queried_tokens = 0  # prompt tokens looked up in the prefix cache, totals since the start
        self.hit_tokens = 0
        self._ledger = ledger
        self._pool = ledger.pool
        self._watermark_blocks = watermark_blocks
        self._project_peak = project_peak
        self._running: list[Sequence] = []
        self._loads: list[tuple[int, int]] | None = None

    def begin(self, running: list[Sequence]) -> None:
        """`running` is the scheduler's own list, which grows as sequences are let in."""
        self._running = running
        self._loads = None

    def awaits_another(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing just what this one needs next: then it need not be done twice."""
        return self._ledger.computed_elsewhere(sequence)

    def admit(self, sequence: Sequence) -> bool:
        """Give `sequence` blocks for all its known tokens, or nothing."""
        cached = self._ledger.cached_blocks(sequence)
        needed = self._pool.blocks_for(sequence.num_tokens) - self._pool.count_held(cached)
        spare = self._watermark_blocks if self._running else 0
        if needed + spare > self._pool.num_free:
            return False
        if self._project_peak and self._running and not self._fits_later(sequence, needed):
            return False
        self._ledger.start(sequence, cached)
        if not sequence.admitted and self._ledger.prefix_caching:
            self.queried_tokens += sequence.num_prompt_tokens
            self.hit_tokens += sequence.num_computed
        return True

    def _fits_later(self, sequence: Sequence, needed: int) -> bool:
        """Whether the projected peak stays within the pool.

        Blocks that a sequence found in the cache count as common property: they are held whoever ends first.
        """
        if self._loads is None:
            self._loads = [self._load(other) for other in self._running]
        common = self._pool.num_used * self._pool.block_size - sum(tokens for _, tokens in self._loads)
        candidate = (self.lengths.remaining(sequence), needed * self._pool.block_size)
        if common + projected_peak([*self._loads, candidate]) > self._pool.num_tokens:
            return False
        self._loads.append(candidate)
        return True

    def _load(self, sequence: Sequence) -> tuple[int, int]:
        own = len(sequence.block_table) - sequence.num_shared
        return self.lengths.remaining(sequence), own * self._pool.block_size

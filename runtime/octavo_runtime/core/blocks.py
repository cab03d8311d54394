"""The pool of KV-cache blocks: who holds which, and which are free. Paged attention after Kwon et al., 2023."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens each.

    A block is either free (reference count 0, in the free list once) or held (its count is the number of block tables
    that list it). The free list is a stack: the block given back last is handed out next, while it is warm in the
    device's caches.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0, f"num_blocks is {num_blocks}"
        assert block_size > 0, f"block_size is {block_size}"
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free = list(range(num_blocks - 1, -1, -1))
        self._ref_counts = [0] * num_blocks

    @property
    def num_free(self) -> int:
        return len(self._free)

    @property
    def num_used(self) -> int:
        return self.num_blocks - len(self._free)

    @property
    def num_tokens(self) -> int:
        """Capacity in tokens."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int] | None:
        """Take `count` free blocks, or none at all: `None` when fewer are free."""
        if count > len(self._free):
            return None
        blocks = [self._free.pop() for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
        return blocks

    def share(self, blocks: Iterable[int]) -> None:
        """Count one more holder of `blocks`, which somebody holds already."""
        for block in blocks:
            assert self._ref_counts[block] > 0, f"block {block} is free and cannot be shared"
            self._ref_counts[block] += 1

    def free(self, blocks: Iterable[int]) -> None:
        """Give up one hold on each of `blocks`; a block that nobody holds any more is free."""
        for block in blocks:
            count = self._ref_counts[block] - 1
            assert count >= 0, f"block {block} is freed twice"
            self._ref_counts[block] = count
            if count == 0:
                self._free.append(block)

    def check_integrity(self, block_tables: Iterable[Iterable[int]]) -> None:
        """Raise `AssertionError` unless the pool's books agree with `block_tables`, all the tables there are."""
        held = Counter(block for table in block_tables for block in table)
        free = set(self._free)
        assert len(free) == len(self._free), "a block is in the free list twice"
        assert not free & held.keys(), f"free and held: {sorted(free & held.keys())}"
        assert len(free) + len(held) == self.num_blocks, "a block is neither free nor held"
        wrong = {block: count for block, count in enumerate(self._ref_counts) if count != held[block]}
        assert not wrong, f"wrong reference counts: {wrong}"

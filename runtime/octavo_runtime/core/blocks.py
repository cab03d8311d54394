"""The pool of KV-cache blocks: who holds which, which are free, and which of those still have contents worth keeping.

Paged attention after Kwon et al., 2023; the prefix cache by chained block keys (`core/keys.py`) after vLLM.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class BlockPool:
    """`num_blocks` blocks of `block_size` tokens each.

        held      reference count = the number of block tables that list the block
        plain     free, contents of no use: a stack, since the block given back last is warm in the device's caches
        cached    free, but its contents have a key: found again by it, or evicted, least recently used first

    Plain blocks are handed out before cached ones. A held block may have a key as well; then others can share it.
    """

    def __init__(self, num_blocks: int, block_size: int) -> None:
        assert num_blocks > 0, f"num_blocks is {num_blocks}"
        assert block_size > 0, f"block_size is {block_size}"
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._plain = list(range(num_blocks - 1, -1, -1))
        self._cached: OrderedDict[int, None] = OrderedDict()  # the next to be evicted comes first
        self._ref_counts = [0] * num_blocks
        self._keys: list[bytes | None] = [None] * num_blocks
        self._by_key: dict[bytes, int] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds, cached ones among them."""
        return len(self._plain) + len(self._cached)

    @property
    def num_used(self) -> int:
        return self.num_blocks - self.num_free

    @property
    def num_tokens(self) -> int:
        """Capacity in tokens."""
        return self.num_blocks * self.block_size

    def blocks_for(self, num_tokens: int) -> int:
        """Blocks that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_size)

    def allocate(self, count: int) -> list[int] | None:
        """Take `count` free blocks, or none at all: `None` when fewer are free. Evicts where plain ones run out."""
        if count > self.num_free:
            return None
        blocks = [self._plain.pop() if self._plain else self._evict() for _ in range(count)]
        for block in blocks:
            self._ref_counts[block] = 1
        return blocks

    def lookup(self, keys: Iterable[bytes]) -> list[int]:
        """The blocks with `keys`, up to the first that is not there."""
        blocks = []
        for key in keys:
            block = self._by_key.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def count_held(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` somebody holds: sharing those takes nothing from the free ones."""
        return sum(self._ref_counts[block] > 0 for block in blocks)

    def share(self, blocks: Iterable[int]) -> None:
        """Count one more holder of `blocks`, which are held by others or cached."""
        for block in blocks:
            if self._ref_counts[block] == 0:
                assert self._keys[block] is not None, f"block {block} is free and cannot be shared"
                del self._cached[block]
            self._ref_counts[block] += 1

    def register(self, block: int, key: bytes) -> None:
        """The contents of a held `block` are complete, and `key` names them. A second block with a key stays plain."""
        assert self._ref_counts[block] > 0, f"block {block} is free and has no contents"
        assert self._keys[block] in {None, key}, f"block {block} changes its contents while it is held"
        if self._by_key.setdefault(key, block) == block:
            self._keys[block] = key

    def forget(self, blocks: Iterable[int]) -> None:
        """Nobody may find `blocks` by their keys any more; those who hold them keep them."""
        for block in blocks:
            if (key := self._keys[block]) is not None:
                del self._by_key[key]
                self._keys[block] = None
                if self._ref_counts[block] == 0:
                    del self._cached[block]
                    self._plain.append(block)

    def free(self, blocks: Iterable[int]) -> None:
        """Give up one hold on each of `blocks`; a block that nobody holds any more is free.

        Give a sequence's blocks last first: the end of a chain is of no use without its start, so it is evicted before.
        """
        for block in blocks:
            count = self._ref_counts[block] - 1
            assert count >= 0, f"block {block} is freed twice"
            self._ref_counts[block] = count
            if count == 0:
                if self._keys[block] is None:
                    self._plain.append(block)
                else:
                    self._cached[block] = None

    def check_integrity(self, block_tables: Iterable[Iterable[int]]) -> None:
        """Raise `AssertionError` unless the pool's books agree with `block_tables`, all the tables there are."""
        held = Counter(block for table in block_tables for block in table)
        free = set(self._plain) | self._cached.keys()
        assert len(free) == self.num_free, "a block is free twice"
        assert not free & held.keys(), f"free and held: {sorted(free & held.keys())}"
        assert len(free) + len(held) == self.num_blocks, "a block is neither free nor held"
        wrong = {block: count for block, count in enumerate(self._ref_counts) if count != held[block]}
        assert not wrong, f"wrong reference counts: {wrong}"
        keyed = {key: block for block, key in enumerate(self._keys) if key is not None}
        assert keyed == self._by_key, "a key leads to a block that does not have it"
        assert self._cached.keys() == free & set(keyed.values()), "cached blocks are the free ones with a key"

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        key = self._keys[block]
        assert key is not None, f"block {block} is cached without a key"
        del self._by_key[key]
        self._keys[block] = None
        return block

"""Which blocks each sequence has, and whose contents others may use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from octavo_runtime.core.keys import extend_keys

if TYPE_CHECKING:
    from collections.abc import Collection

    from octavo_runtime.core.blocks import BlockPool
    from octavo_runtime.core.sequence import Sequence


class Ledger:
    """Sequences' dealings with the pool: take, extend, publish what is computed, give back."""

    def __init__(self, pool: BlockPool, *, prefix_caching: bool) -> None:
        self.pool = pool
        self.prefix_caching = prefix_caching
        self._under_way: dict[bytes, Sequence] = {}  # key of a block that a running sequence is about to compute

    def extend_keys(self, sequence: Sequence) -> None:
        """Name the blocks that the sequence's known tokens fill. Each is hashed once."""
        if self.prefix_caching:
            extend_keys(sequence.block_keys, sequence.root_key, sequence.token_ids, self.pool.block_size)

    def cached_blocks(self, sequence: Sequence) -> list[int]:
        """The blocks of the cache that the sequence could start with.

        Never all of its tokens: the last one must be computed, since its logits are what is wanted. None while log
        probabilities of the prompt are owed.
        """
        if sequence.params.prompt_logprobs is not None and sequence.num_scored < sequence.num_prompt_tokens:
            return []
        return self.pool.lookup(sequence.block_keys[: self._most_cached(sequence)])

    def computed_elsewhere(self, sequence: Sequence) -> bool:
        """Whether a running sequence is computing the first block that `sequence` does not find in the cache."""
        if sequence.awaited_key in self._under_way:
            return True
        found = len(self.cached_blocks(sequence))
        if found >= self._most_cached(sequence) or sequence.params.prompt_logprobs is not None:
            return False
        key = sequence.block_keys[found]
        sequence.awaited_key = key if key in self._under_way else None
        return sequence.awaited_key is not None

    def start(self, sequence: Sequence, cached: list[int]) -> None:
        """Give a sequence the blocks of all its known tokens, the first ones `cached`."""
        self.pool.share(cached)
        sequence.block_table.extend(cached)
        sequence.num_shared = sequence.num_registered = len(cached)
        sequence.num_computed = sequence.num_launched = sequence.capacity = len(cached) * self.pool.block_size
        enough = self.extend(sequence, sequence.num_tokens)
        assert enough, "checked before"
        self.extend_keys(sequence)
        for key in sequence.block_keys[len(cached) :]:
            self._under_way.setdefault(key, sequence)

    def extend(self, sequence: Sequence, num_tokens: int) -> bool:
        """Blocks for `num_tokens` tokens; False, and nothing taken, when too few are free."""
        missing = self.pool.blocks_for(num_tokens) - len(sequence.block_table)
        if missing <= 0:
            return True
        blocks = self.pool.allocate(missing)
        if blocks is None:
            return False
        sequence.block_table.extend(blocks)
        sequence.capacity = len(sequence.block_table) * self.pool.block_size
        self.publish(sequence)
        return True

    def publish(self, sequence: Sequence) -> None:
        """Let others find the blocks that have been computed whole since the last time."""
        whole = sequence.num_computed // self.pool.block_size
        if not self.prefix_caching or whole <= sequence.num_registered:
            return
        self.extend_keys(sequence)
        for index in range(sequence.num_registered, whole):
            key = sequence.block_keys[index]
            self.pool.register(sequence.block_table[index], key)
            self._cancel(key, sequence)
        sequence.num_registered = whole

    def release(self, sequence: Sequence) -> None:
        """Give all blocks back; what was computed stays in the cache as long as nobody needs the room."""
        self.publish(sequence)
        for key in sequence.block_keys[sequence.num_registered :]:
            self._cancel(key, sequence)
        self.pool.free(reversed(sequence.block_table))
        sequence.block_table.clear()
        sequence.num_computed = sequence.num_launched = sequence.capacity = 0
        sequence.num_registered = sequence.num_shared = 0
        sequence.decodes = False

    def distrust(self, sequence: Sequence) -> None:
        """Let nobody find what this sequence has computed."""
        self.pool.forget(sequence.block_table)
        for key in sequence.block_keys:
            self._cancel(key, sequence)
        sequence.num_registered = len(sequence.block_table)

    def check_integrity(self, sequences: Collection[Sequence]) -> None:
        """Raise `AssertionError` when the pool, the tables and the blocks under way do not agree."""
        self.pool.check_integrity(sequence.block_table for sequence in sequences)
        running = {sequence.seq_id: sequence for sequence in sequences if sequence.block_table}
        for key, sequence in self._under_way.items():
            assert running.get(sequence.seq_id) is sequence, "nobody computes a block that is said to be under way"
            assert key in sequence.block_keys[sequence.num_registered :], "a block is under way and computed"
        for sequence in running.values():
            assert sequence.capacity == len(sequence.block_table) * self.pool.block_size, "a capacity drifted"
            assert sequence.num_registered * self.pool.block_size <= sequence.num_computed, "published too early"

    def _most_cached(self, sequence: Sequence) -> int:
        return min((sequence.num_tokens - 1) // self.pool.block_size, len(sequence.block_keys))

    def _cancel(self, key: bytes, sequence: Sequence) -> None:
        if self._under_way.get(key) is sequence:
            del self._under_way[key]

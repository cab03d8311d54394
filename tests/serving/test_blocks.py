"""The block pool's books."""

import pytest

from octavo_runtime.core.blocks import BlockPool


def test_allocation_is_all_or_nothing():
    pool = BlockPool(num_blocks=4, block_size=16)
    held = pool.allocate(3)
    assert held is not None
    assert len(set(held)) == 3
    assert pool.allocate(2) is None
    assert pool.num_free == 1, "a refused allocation takes nothing"
    pool.check_integrity([held])


def test_a_freed_block_is_the_next_to_be_handed_out():
    pool = BlockPool(num_blocks=8, block_size=16)
    first, second = pool.allocate(2)
    pool.free([first])
    assert pool.allocate(1) == [first]
    assert second != first


def test_a_shared_block_is_free_only_after_its_last_holder():
    pool = BlockPool(num_blocks=2, block_size=16)
    table = pool.allocate(1)
    pool.share(table)
    pool.check_integrity([table, table])
    pool.free(table)
    assert pool.num_free == 1
    pool.check_integrity([table])
    pool.free(table)
    assert pool.num_free == 2


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2), (160, 10)])
def test_a_partly_filled_block_counts_as_one(tokens, blocks):
    assert BlockPool(num_blocks=1, block_size=16).blocks_for(tokens) == blocks


def test_a_double_free_is_caught():
    pool = BlockPool(num_blocks=2, block_size=16)
    table = pool.allocate(1)
    pool.free(table)
    with pytest.raises(AssertionError, match="freed twice"):
        pool.free(table)


def test_sharing_a_free_block_is_caught():
    with pytest.raises(AssertionError, match="is free"):
        BlockPool(num_blocks=2, block_size=16).share([0])


def test_the_integrity_check_sees_a_leak_and_a_block_in_two_tables():
    pool = BlockPool(num_blocks=4, block_size=16)
    table = pool.allocate(2)
    with pytest.raises(AssertionError, match="neither free nor held"):
        pool.check_integrity([])
    with pytest.raises(AssertionError, match="reference counts"):
        pool.check_integrity([table, table])

"""Keys and values as boxes: what the tensor memory accelerator of sm_90 and sm_100 copies in one instruction.

A cache is seen as one long list of rows, of which a block's tokens of one head lie behind each other, and a box is a
tile of positions of one head:

    rows     (block 0, head 0, slot 0) (block 0, head 0, slot 1) … (block 0, head 1, slot 0) … (block 1, head 0, slot 0)
    a box    BLOCK_N rows from (block, head, slot) on, all of one block; columns past the head's size are zeros

So a block must hold a tile whole, and a row be a multiple of 16 bytes; `choose_launch` sees to both, and everything
else is loaded through pointers. The descriptor is made on the host for every launch, from address and shape alone, and
travels in the launch's parameters: a CUDA graph keeps it with them, and no kernel needs memory to make one in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import triton
from triton.tools.tensor_descriptor import TensorDescriptor

if TYPE_CHECKING:
    from torch import Tensor

BOX_ALIGNMENT: Final = 16  # bytes, of addresses and rows


def boxes_of(name: str, cache: Tensor, columns: int) -> TensorDescriptor:
    """The cache `[num_blocks, num_kv_heads, block_size, head_dim]`, contiguous, by boxes of `columns` positions."""
    if cache.data_ptr() % BOX_ALIGNMENT:
        raise ValueError(f"{name} begins at address {cache.data_ptr()}; expected a multiple of {BOX_ALIGNMENT}")
    head_dim = cache.shape[3]
    rows = cache.view(-1, head_dim)
    return TensorDescriptor.from_tensor(rows, [columns, padded_dim(head_dim)])


def padded_dim(head_dim: int) -> int:
    """The width of tiles: what tensor cores take."""
    return max(16, int(triton.next_power_of_2(head_dim)))

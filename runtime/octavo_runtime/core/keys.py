"""Names for the contents of full blocks: two blocks with the same key hold the keys and values of the same tokens.

    root = H(tenant, salt)      key[0] = H(root, tokens[0:16])      key[1] = H(key[0], tokens[16:32])      …

A key stands for the whole context up to its block's end, as the keys and values in it do. H is BLAKE2b with 128 bits:
to make two contexts with one key takes some 2^64 tries, so nobody gets another's cache by an accident or on purpose.
The root differs between tenants, so nobody can measure by its answers' times what others have asked (the salt is vLLM's
`cache_salt`).
"""

from __future__ import annotations

from array import array
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_DIGEST_BYTES: Final = 16


def root_key(tenant: str, salt: str) -> bytes:
    """The key before a tenant's first block."""
    return blake2b(repr((tenant, salt)).encode(), digest_size=_DIGEST_BYTES).digest()


def extend_keys(keys: list[bytes], root: bytes, tokens: Sequence[int], block_size: int) -> None:
    """Append to `keys` those of the blocks that `tokens` fill and that are not in it yet."""
    parent = keys[-1] if keys else root
    for start in range(len(keys) * block_size, len(tokens) - block_size + 1, block_size):
        content = array("q", tokens[start : start + block_size]).tobytes()
        parent = blake2b(parent + content, digest_size=_DIGEST_BYTES).digest()
        keys.append(parent)

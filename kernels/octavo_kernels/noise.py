"""Randomness by counter: the noise of a draw is a hash of whose draw it is and of the token, and of nothing else.

The rule, which every backend follows to the bit up to `uniform`:

    state    = key XOR (token * FIRST)                                 64 bits, unsigned, products wrap
    bits     = upper 32 bits of splitmix64's finaliser of state        (Steele, Lea and Flood, 2014)
    uniform  = (bits + 0.5) / 2^32 in fp32, at most 1 - 2^-24
    noise    = -log(-log(1 - uniform)), Gumbel's distribution

So the token that a seed draws at a position does not depend on the batch, on what was drawn before or on the backend,
but for the last digits of the two logarithms.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

FIRST: Final = 0xBF58476D1CE4E5B9
SECOND: Final = 0x94D049BB133111EB
_MASK: Final = (1 << 64) - 1


def gumbel(keys: Tensor, vocab_size: int) -> Tensor:
    """Noise of each row's key and each token id, `[R, vocab_size]` fp32, of `keys` `[R]` int64."""
    tokens = torch.arange(vocab_size, device=keys.device)
    bits = hash_bits(keys[:, None] ^ (tokens * signed(FIRST)))
    uniform = ((bits.float() + 0.5) * 2.0**-32).clamp(max=1 - 2.0**-24)
    return -torch.log(-torch.log1p(-uniform))


def hash_bits(state: Tensor) -> Tensor:
    """splitmix64's finaliser on int64, whose products wrap as unsigned ones do; the upper 32 bits of the result."""
    state = (state ^ _shift(state, 30)) * signed(FIRST)
    state = (state ^ _shift(state, 27)) * signed(SECOND)
    return _shift(state ^ _shift(state, 31), 32)


def signed(value: int) -> int:
    """The int64 with the same 64 bits."""
    return value - (1 << 64) if value >> 63 else value


def _shift(state: Tensor, bits: int) -> Tensor:
    """Logical shift to the right; torch's own keeps the sign."""
    return (state >> bits) & (_MASK >> bits)

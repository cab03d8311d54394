"""Randomness by counter: a hash of what is being drawn, so that nothing depends on what was drawn before."""

from __future__ import annotations

from typing import Final

MASK: Final = (1 << 64) - 1
GOLDEN: Final = 0x9E3779B97F4A7C15
FIRST: Final = 0xBF58476D1CE4E5B9
SECOND: Final = 0x94D049BB133111EB


def mix(state: int, value: int) -> int:
    """Fold `value` into `state`, both taken as 64 bits, by splitmix64's finaliser (Steele, Lea and Flood, 2014)."""
    mixed = (state ^ (value * FIRST)) + GOLDEN & MASK
    mixed = (mixed ^ (mixed >> 30)) * FIRST & MASK
    mixed = (mixed ^ (mixed >> 27)) * SECOND & MASK
    return mixed ^ (mixed >> 31)


def noise_key(seed: int, position: int) -> int:
    """What the noise of all tokens of one draw starts from, as the int64 with these 64 bits."""
    key = mix(mix(0, seed), position)
    return key - (1 << 64) if key >> 63 else key

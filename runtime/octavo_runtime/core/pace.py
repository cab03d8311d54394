"""How long a step takes, learned from the steps so far: seconds = base + per_token * tokens."""

from __future__ import annotations

from typing import Final

_MEMORY: Final = 0.98  # weight of the past in each new step: some fifty steps count
_LEAST_SPREAD: Final = 16.0  # tokens; with steps more alike than this, a slope would be noise


class Pace:
    """Weighted least squares over the last steps, in constant space."""

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0

    def observe(self, num_tokens: int, seconds: float) -> None:
        """A step of `num_tokens` tokens took `seconds`."""
        self._weight = self._weight * _MEMORY + 1
        self._x = self._x * _MEMORY + num_tokens
        self._y = self._y * _MEMORY + seconds
        self._xx = self._xx * _MEMORY + num_tokens * num_tokens
        self._xy = self._xy * _MEMORY + num_tokens * seconds

    def prefill_seconds(self, num_tokens: int, budget: int) -> float:
        """Seconds to compute `num_tokens` alone, in steps of at most `budget` tokens. 0 while too little is known.

        Never pessimistic on purpose: who sheds by it must not shed what could have been in time.
        """
        if self._weight == 0:
            return 0.0
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        variance = self._xx / self._weight - mean_x * mean_x
        if variance < _LEAST_SPREAD**2:
            return 0.0
        slope = max(self._xy / self._weight - mean_x * mean_y, 0.0) / variance
        base = max(mean_y - slope * mean_x, 0.0)
        return base * -(-num_tokens // budget) + slope * num_tokens

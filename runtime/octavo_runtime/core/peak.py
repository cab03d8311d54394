"""How full the KV cache will get if a sequence is let in: the peak, not the present.

Sort the running sequences by how long they will go on. When the i-th to end does, all that outlive it have grown by the
tokens that it had left, and what ended before it is free again:

    peak = max over i of  remaining[i] * (how many go on at least that long) + the tokens that those hold now

Past-Future scheduling after Gong et al., ASPLOS 2025 (lightllm). It needs to know how long each sequence will go on:
`OutputLengths` learns that from those that have ended, since `max_tokens` is what a client is afraid of, not what it
expects.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from octavo_runtime.core.sequence import Sequence

_FIRST_GUESS: Final = 256.0  # tokens of an answer before any has ended
_LEARNING_RATE: Final = 1 / 32
_OUTLIVED: Final = 1.25  # an answer that is longer than expected is expected to go on for a quarter of its length


def projected_peak(loads: Iterable[tuple[int, int]]) -> int:
    """The most tokens held at one time by sequences of (expected remaining tokens, tokens held now)."""
    longest_first = sorted(loads, reverse=True)
    held = accumulate(tokens for _, tokens in longest_first)
    return max(
        (
            remaining * count + total
            for count, ((remaining, _), total) in enumerate(zip(longest_first, held, strict=True), 1)
        ),
        default=0,
    )


class OutputLengths:
    """How long answers are, recent ones counting more."""

    def __init__(self) -> None:
        self._mean = _FIRST_GUESS

    def observe(self, length: int) -> None:
        """An answer ended with `length` tokens."""
        self._mean += _LEARNING_RATE * (length - self._mean)

    def remaining(self, sequence: Sequence) -> int:
        """Tokens that `sequence` is expected to generate from now on."""
        done = sequence.num_tokens - sequence.num_prompt_tokens
        expected = max(self._mean, done * _OUTLIVED)
        return min(int(expected), sequence.params.max_tokens) - done

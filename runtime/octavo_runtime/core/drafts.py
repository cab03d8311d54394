"""Guesses at the next tokens from what is already there: speculative decoding without a draft model.

Where the last tokens of a sequence have occurred before in it, the tokens that followed them then are likely to follow
again: in code, in quotations, in answers about a text (prompt lookup decoding, Saxena, 2023). A wrong guess costs a row
of the step, never a wrong token: the model samples at each position as it would without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

_LONGEST: Final = 3  # tokens that must agree; a longer agreement is a better guess
_SHORTEST: Final = 2


class NgramIndex:
    """Where each pair and each triple of a sequence's tokens occurred last. Follows the sequence as it grows."""

    __slots__ = ("_indexed", "_next")

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}  # n-gram -> position after its last occurrence
        self._indexed = 1  # n-grams that end before this position are in

    def propose(self, tokens: Sequence[int], count: int) -> list[int]:
        """At most `count` tokens that may follow `tokens`, which are those of the call before and more."""
        self._catch_up(tokens)
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            start = self._next.get(tuple(tokens[-length:]))
            if start is not None:
                return list(tokens[start : start + count])
        return []

    def _catch_up(self, tokens: Sequence[int]) -> None:
        """Take in the n-grams that have a successor: all but those at the very end."""
        for end in range(self._indexed, len(tokens)):
            for length in range(_SHORTEST, min(_LONGEST, end) + 1):
                self._next[tuple(tokens[end - length : end])] = end
        self._indexed = max(self._indexed, len(tokens))

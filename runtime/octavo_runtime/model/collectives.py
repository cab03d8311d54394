"""What the ranks of a divided decoder do together. `parallel/group.py` does it between processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from torch import Tensor


class Collectives(Protocol):
    """Every rank calls the same verbs in the same order with tensors of one shape, or all of them wait for ever."""

    @property
    def size(self) -> int: ...

    def all_reduce(self, x: Tensor) -> Tensor:
        """The sum of all ranks' `x`, the same to the last bit on each. `x` may be overwritten."""
        ...

    def all_gather(self, x: Tensor) -> Tensor:
        """All ranks' `x` `[T, n]` side by side in the order of their ranks, `[T, size n]`."""
        ...


class Alone:
    """One rank that has the whole model: both verbs leave `x` as it is."""

    size: Final = 1

    def all_reduce(self, x: Tensor) -> Tensor:
        return x

    def all_gather(self, x: Tensor) -> Tensor:
        return x

"""A runner whose steps several ranks compute together, and what keeps one that raises from leaving the others alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from octavo_runtime.runner.torch_runner import TorchRunner

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from octavo_kernels.interface import PagedBatch
    from octavo_runtime.core.batch import FlatBatch, StepResult
    from octavo_runtime.model.decoder import AnyDecoder, LayerCache
    from octavo_runtime.model.spec import CacheShape


class OutOfStepError(Exception):
    """A rank has left a step in the middle: the others wait in it, and no further step can be computed."""


class LockstepDecoder:
    """Implements `AnyDecoder`: another one, whose step can be brought to its end when its caller has given it up."""

    def __init__(self, decoder: AnyDecoder) -> None:
        self._decoder = decoder
        self._left: Iterator[Tensor] | None = iter(())  # what is still to be computed; None: that is unknown

    @property
    def cache_shapes(self) -> Sequence[CacheShape]:
        return self._decoder.cache_shapes

    def begin(self) -> None:
        self._left = None

    def finish(self) -> bool:
        """Compute what the step has left, for the others' sake. False when this rank cannot get to its end."""
        if self._left is None:
            return False
        for _ in self._left:
            pass
        return self._left is not None

    def forward(
        self, token_ids: Tensor, positions: Tensor, batch: PagedBatch, caches: Sequence[LayerCache], rows: Tensor
    ) -> Tensor:
        logits = self._decoder.forward(token_ids, positions, batch, caches, rows)
        self._left = iter(())
        return logits

    def forward_pieces(
        self,
        token_ids: Tensor,
        positions: Tensor,
        batch: PagedBatch,
        caches: Sequence[LayerCache],
        pieces: Sequence[Tensor],
    ) -> Iterator[Tensor]:
        self._left = self._watch(self._decoder.forward_pieces(token_ids, positions, batch, caches, pieces))
        return self._left

    def _watch(self, logits: Iterator[Tensor]) -> Iterator[Tensor]:
        try:
            yield from logits
        except Exception:
            self._left = None
            raise


class LockstepRunner(TorchRunner):
    """One rank's runner."""

    def __init__(self, decoder: AnyDecoder, **settings: Any) -> None:  # noqa: ANN401  TorchRunner's own
        self._lockstep = LockstepDecoder(decoder)
        super().__init__(self._lockstep, **settings)
        self.computes_apart = False  # a step that raises must be over on all ranks before the next one begins

    def execute(self, batch: FlatBatch) -> StepResult:
        """What `TorchRunner.execute` does. Raises `OutOfStepError` when this rank, or all of them, cannot go on; any
        other error is of this batch's own, and all ranks are ready for the next.
        """
        self._lockstep.begin()
        try:
            return super().execute(batch)
        except Exception as error:
            if self._lockstep.finish():
                raise
            raise OutOfStepError(f"{type(error).__name__}: {error}") from error

"""Steps that a device is computing: what the next one takes from them, and how the host gets their tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from octavo_runtime.core.batch import StepResult
from octavo_runtime.runner.base import Undecided
from octavo_runtime.runner.sampler import check
from octavo_runtime.runner.transfer import HostCopy, on_device

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from octavo_runtime.core.batch import FlatBatch
    from octavo_runtime.runner.sampler import Choice


@dataclass(frozen=True, slots=True)
class Done:
    """A step that was computed when it was launched."""

    result: StepResult

    def wait(self) -> StepResult:
        return self.result


class UnderWay:
    """A step whose tokens the device has yet to choose, or just has."""

    def __init__(self, choice: Choice, on_doubt: Callable[[], object]) -> None:
        """`on_doubt` is called when the choice turns out to be none."""
        self._copy = HostCopy(choice.tokens, choice.best, *([] if choice.certain is None else [choice.certain]))
        self._on_doubt = on_doubt

    def wait(self) -> StepResult:
        tokens, best, *certain = self._copy.wait()
        check(best.tolist())
        if certain and not bool(certain[0].all()):
            self._on_doubt()
            raise Undecided("top-p keeps more tokens than were looked at")
        return StepResult(tokens.tolist())


def put_carried(token_ids: Tensor, batch: FlatBatch, sampled: Tensor | None) -> None:
    """Complete `token_ids` `[T]` with tokens that the step launched before has `sampled`, all of them on the device."""
    if not batch.carried_rows:
        return
    if sampled is None:
        raise RuntimeError("the step whose tokens this one continues has failed")
    rows = on_device(batch.carried_rows, token_ids.device)
    token_ids[rows] = sampled[on_device(batch.carried_from, token_ids.device)]


def is_described(batch: FlatBatch) -> bool:
    """Whether somebody asks for log probabilities, which are worked out on the host's account."""
    return bool(batch.scoring) or any(
        row.shaping is not None and row.shaping.params.logprobs is not None for row in batch.sampling
    )

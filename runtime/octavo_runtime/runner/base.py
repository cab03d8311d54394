"""The seam between the engine, which counts in ints, and whatever computes tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from octavo_runtime.core.batch import FlatBatch, StepResult

# Called with a start-up phase ("weights", "warmup") and how much of it is done, 0 to 1.
Progress = Callable[[str, float], None]
# Called with the reason, from any thread, when no step can be computed any more; ends the process.
Fatal = Callable[[str], object]


class Undecided(Exception):  # noqa: N818  nothing went wrong
    """What a launched step chose is not certain: it must be executed."""


class Launched(Protocol):
    """A step that is being computed."""

    def wait(self) -> StepResult:
        """Its result, once it is there. Raises what went wrong with it, or `Undecided`. To be called once."""
        ...


class Runner(Protocol):
    """Computes one step. Owns weights and the KV cache; knows nothing of requests."""

    num_blocks: int  # blocks in the KV cache
    block_size: int  # tokens in a block
    step_tokens: int  # token budget of a step that suits the device, where the user sets none
    computes_apart: bool  # not on the processor that plans, so that it pays to plan while a step is computed

    def execute(self, batch: FlatBatch) -> StepResult:
        """Run the model over `batch`: a token for each of `batch.sampling`, a score for each of `batch.scoring`."""
        ...

    def launch(self, batch: FlatBatch) -> Launched:
        """Begin what `execute` does. Steps are computed in the order in which they are launched.

        Reads all of `batch` before it returns, but for the tokens of `carried_rows`: those are what the step launched
        just before samples, which may not be known yet. May raise, as `wait` may.
        """
        ...

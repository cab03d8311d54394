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


class Runner(Protocol):
    """Computes one step. Owns weights and the KV cache; knows nothing of requests."""

    num_blocks: int  # blocks in the KV cache
    block_size: int  # tokens in a block
    step_tokens: int  # token budget of a step that suits the device, where the user sets none

    def execute(self, batch: FlatBatch) -> StepResult:
        """Run the model over `batch`: a token for each of `batch.sampling`, a score for each of `batch.scoring`."""
        ...

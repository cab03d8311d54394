"""What the two processes say to each other, as msgpack arrays. Nothing is ever unpickled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

# msgspec reads these annotations at run time.
from octavo_runtime.core.batch import SamplingParams  # noqa: TC001
from octavo_runtime.core.outputs import Output, StepOutputs

if TYPE_CHECKING:
    from collections.abc import Iterator


class Terms(msgspec.Struct, frozen=True):
    """How a request is to be treated, beside what it asks for."""

    tenant: str = ""  # whose share of the server it counts against, and whose prefix cache it uses
    salt: str = ""  # divides a tenant's prefix cache further
    priority: int = 0  # lower is earlier, among the tenant's own requests
    timeout: float | None = None  # seconds after which an answer is of no use


class Add(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A validated request. Its id is the API process's, never used twice."""

    request_id: int
    prompt: list[int]
    params: SamplingParams
    tenant: str = ""
    salt: str = ""
    priority: int = 0
    arrived_at: float = 0.0  # time.monotonic(), which both processes share
    deadline: float | None = None  # the same clock; a later answer is of no use


class Abort(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The client is gone, or has all it wants. An id that is unknown or finished is no error."""

    request_id: int


class Stop(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """End the process now."""


class Started(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The model is loaded; these are the bounds of what it can serve."""

    max_model_len: int  # tokens, prompt and output, of one sequence; bounded by the model and by the KV cache
    vocab_size: int
    num_blocks: int
    block_size: int


class StartFailed(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The engine ends, mostly because it cannot start. `reason` names a class of errors.StartError."""

    reason: str
    message: str


class StepDone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All that one step yielded."""

    started_at: float  # time.monotonic(), which both processes share
    admitted: list[int]  # requests that were scheduled for the first time
    outputs: list[Output]  # all news but those of `decoded`
    failed: list[int]  # requests whose computation raised
    decoded: list[int]  # requests that got one token and go on
    tokens: list[int]  # one for each of `decoded`
    cached: list[int]  # for each of `admitted`: tokens of its prompt that were found in the prefix cache

    def each_output(self) -> Iterator[Output]:
        """One `Output` for each request that has news."""
        return StepOutputs(self.decoded, self.tokens, self.outputs).each()


ToEngine = Add | Abort | Stop
FromEngine = Started | StartFailed | StepDone

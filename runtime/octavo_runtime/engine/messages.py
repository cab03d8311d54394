"""What the two processes say to each other, as msgpack arrays. Nothing is ever unpickled."""

from __future__ import annotations

import msgspec

# msgspec reads these annotations at run time.
from octavo_runtime.core.batch import SamplingParams  # noqa: TC001
from octavo_runtime.core.scheduler import Output  # noqa: TC001


class Add(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """A validated request. Its id is the API process's, never used twice."""

    request_id: int
    prompt: list[int]
    params: SamplingParams


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
    """The engine ends. `reason` names a class of errors.StartError."""

    reason: str
    message: str


class StepDone(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """All that one step yielded."""

    started_at: float  # time.monotonic(), which both processes share
    admitted: list[int]  # requests that were scheduled for the first time
    outputs: list[Output]
    failed: list[int]  # requests whose computation raised


ToEngine = Add | Abort | Stop
FromEngine = Started | StartFailed | StepDone

"""The runtime's exceptions.

    OctavoError
    ├── StartError              the server cannot start; `reason` goes into the termination message
    │   ├── ModelNotFound       the path, repository, revision or bucket is missing, or has no weights
    │   ├── ModelAccessDenied   the hub or the storage refuses us, or the files may not be read by our user
    │   ├── ModelFetchFailed    the model cannot be fetched: network, storage, a full disk
    │   ├── ModelUnsupported    architecture, weight format or quantisation that is not served
    │   ├── OutOfMemory         weights or KV cache do not fit
    │   ├── InvalidArgument     a setting contradicts the model or the machine
    │   ├── LeaderGone          a node's leader has ended, or its engine, or the network between
    │   └── EngineFailed        anything else while starting, or the engine process died
    └── RequestError            one request cannot be served; the others go on. Each has its HTTP status
        ├── UnsupportedParameter   400  a field of OpenAI's that would change the answer and is not implemented
        ├── ContextLengthExceeded  400  prompt and answer do not fit the model or the KV cache
        ├── UnknownModel           404  another model than the one that is served
        ├── BodyTooLarge           413
        ├── DeadlineExceeded       504  the request's own timeout passed, or cannot be met
        ├── Unavailable            503  not now: try again, here or at another replica
        │   ├── ModelLoading
        │   ├── QueueFull
        │   └── Draining
        └── EngineError            500  computing this request failed
            ├── EngineDied         the engine process ended while the request was running
            └── Aborted            the server gave the request up: it drains and time is over

server/errors.py turns request errors into OpenAI's form; the server's exit status comes from start errors.
"""

from __future__ import annotations

from typing import ClassVar


class OctavoError(Exception):
    """Base of everything that the runtime raises on purpose."""


class StartError(OctavoError):
    """The server cannot start. `reason` is a CamelCase word that the operator shows in the ModelServer's conditions."""

    reason: ClassVar[str] = "EngineFailed"


class ModelNotFound(StartError):  # noqa: N818  named by its reason, which users read in conditions
    reason = "ModelNotFound"


class ModelAccessDenied(StartError):  # noqa: N818
    reason = "ModelAccessDenied"


class ModelFetchFailed(StartError):  # noqa: N818
    reason = "ModelFetchFailed"


class ModelUnsupported(StartError):  # noqa: N818
    reason = "ModelUnsupported"


class OutOfMemory(StartError):  # noqa: N818
    reason = "OutOfMemory"


class InvalidArgument(StartError):  # noqa: N818
    reason = "InvalidArgument"


class LeaderGone(StartError):  # noqa: N818
    reason = "LeaderGone"


class EngineFailed(StartError):  # noqa: N818
    reason = "EngineFailed"


def start_error(reason: str, message: str, default: type[StartError] = EngineFailed) -> StartError:
    """The error that another process has named by its reason; `default` for a word that is none of ours."""
    kinds = {kind.reason: kind for kind in StartError.__subclasses__()}
    return kinds.get(reason, default)(message)


class RequestError(OctavoError):
    """One request cannot be served. `message` is shown to the client, `param` names the field, `code` is OpenAI's."""

    def __init__(
        self, message: str, *, param: str | None = None, code: str = "invalid_request_error", status: int = 400
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code
        self.status = status


class UnsupportedParameter(RequestError):  # noqa: N818  request errors are named like the codes that clients read
    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, code="unsupported_parameter")


class ContextLengthExceeded(RequestError):  # noqa: N818
    def __init__(self, message: str, *, param: str) -> None:
        super().__init__(message, param=param, code="context_length_exceeded")


class UnknownModel(RequestError):  # noqa: N818
    def __init__(self, model: str, served: str) -> None:
        message = f"model: {model!r} does not exist here; this server has {served!r}"
        super().__init__(message, param="model", code="model_not_found", status=404)


class BodyTooLarge(RequestError):  # noqa: N818
    def __init__(self, limit: int) -> None:
        message = f"body: larger than the limit of {limit} bytes"
        super().__init__(message, param="body", code="request_too_large", status=413)


class DeadlineExceeded(RequestError):  # noqa: N818
    def __init__(self) -> None:
        message = "timeout: the answer cannot be complete in the time that the request allows"
        super().__init__(message, param="timeout", code="deadline_exceeded", status=504)


class Unavailable(RequestError):  # noqa: N818
    """Not now. `retry_after` is in seconds."""

    def __init__(self, message: str, *, code: str, retry_after: int) -> None:
        super().__init__(message, code=code, status=503)
        self.retry_after = retry_after


class ModelLoading(Unavailable):
    def __init__(self, phase: str) -> None:
        super().__init__(f"the model is still loading (phase: {phase})", code="model_loading", retry_after=5)


class QueueFull(Unavailable):
    def __init__(self, message: str) -> None:
        super().__init__(message, code="engine_overloaded", retry_after=2)


class Draining(Unavailable):
    def __init__(self) -> None:
        super().__init__("this replica is shutting down", code="server_shutting_down", retry_after=1)


class EngineError(RequestError):
    """Computing this request failed; nothing is wrong with the request as such."""

    def __init__(self, message: str, *, code: str = "engine_error") -> None:
        super().__init__(message, code=code, status=500)


class EngineDied(EngineError):  # noqa: N818
    def __init__(self) -> None:
        super().__init__("the engine process ended while the request was running", code="engine_died")


class Aborted(EngineError):  # noqa: N818
    def __init__(self) -> None:
        super().__init__("the server shut down before the answer was complete", code="aborted")

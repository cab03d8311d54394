"""Every refusal in OpenAI's form: {"error": {"message", "type", "param", "code"}}."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from octavo_runtime.errors import BodyTooLarge, EngineError, RequestError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from starlette.requests import Request

logger = logging.getLogger(__name__)

_MAX_SHOWN: Final = 40  # characters of a wrong value that a message repeats


class ErrorDetail(msgspec.Struct):
    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct):
    error: ErrorDetail


def error_body(error: RequestError) -> bytes:
    """The JSON of `error`: a response's body, or the data of a stream's last event."""
    kind = "invalid_request_error" if error.status < HTTPStatus.INTERNAL_SERVER_ERROR else "server_error"
    return msgspec.json.encode(ErrorBody(ErrorDetail(error.message, kind, error.param, error.code)))


def error_response(error: RequestError) -> Response:
    headers = {"Retry-After": str(error.retry_after)} if isinstance(error, Unavailable) else None
    return Response(error_body(error), error.status, headers, media_type="application/json")


def install_handlers(app: FastAPI, max_body_size: int) -> None:
    """Let no error leave `app` in another form."""

    @app.exception_handler(RequestError)
    async def refused(_: Request, error: RequestError) -> Response:
        return error_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return error_response(explain(error.errors()[0]))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        response = error_response(_of_http(request, error, max_body_size))
        response.headers.update(error.headers or {})  # Allow, of a 405
        return response

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> Response:
        logger.error("a request raised", exc_info=error)
        return error_response(EngineError("internal error; the server's log says why", code="internal_error"))


def explain(problem: dict[str, Any]) -> RequestError:
    """Turn pydantic's first complaint into a message that names the parameter and, if it is short, its value."""
    kind = problem["type"]
    if kind == "json_invalid":
        return RequestError(f"body: not valid JSON: {problem['ctx']['error']}", param="body", code="invalid_json")
    param = _path(problem["loc"])
    if param == "body":
        return RequestError("body: must be a JSON object, with Content-Type application/json", param="body")
    reason = problem["msg"].removeprefix("Value error, ")
    message = f"{param}: {reason[0].lower()}{reason[1:]}{_shown(kind, problem.get('input'))}"
    code = kind if kind == "unsupported_parameter" else "invalid_request_error"
    return RequestError(message, param=param, code=code)


def _path(location: Sequence[str | int]) -> str:
    """`("body", "messages", 0, "role")` as `messages[0].role`."""
    names = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in location if part != "body"]
    return "".join(names).removeprefix(".") or "body"


def _shown(kind: str, value: object) -> str:
    if kind == "missing" or not isinstance(value, (int, float, str, type(None))):
        return ""
    text = repr(value)
    return f", not {text}" if len(text) <= _MAX_SHOWN else ""


def _of_http(request: Request, error: HTTPException, max_body_size: int) -> RequestError:
    path = request.scope["path"]
    match error.status_code:
        case HTTPStatus.NOT_FOUND:
            return RequestError(f"path: {path} does not exist", param="path", code="not_found", status=404)
        case HTTPStatus.METHOD_NOT_ALLOWED:
            message = f"method: {request.method} is not allowed on {path}"
            return RequestError(message, param="method", code="method_not_allowed", status=405)
        case HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            return BodyTooLarge(max_body_size)
        case HTTPStatus.BAD_REQUEST:
            return RequestError("body: cannot be read as JSON", param="body", code="invalid_json")
        case status:
            return RequestError(str(error.detail), code="http_error", status=status)

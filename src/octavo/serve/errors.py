"""Every error as a JSON body of OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteError

from octavo.base.errors import OctavoError
from octavo.serve.scheduler import EngineStoppedError, QueueFullError

# nginx's code for a client that left before it was answered; nobody reads it, but it is counted.
CLIENT_LEFT = 499


class ApiError(HTTPException):
    """An answer that is an error.

    Args:
        status: the HTTP status.
        message: what is wrong, for a person.
        code: the same for a program.
        param: the field of the request that it is about.
    """

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(status, message)
        self.code = code
        self.param = param

    def body(self) -> dict[str, Any]:
        """The JSON body."""
        kind = "invalid_request_error" if self.status_code < 500 else "server_error"
        if self.status_code == 429:
            kind = "rate_limit_error"
        return {"error": {"message": self.detail, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The response itself."""
        headers = {"Retry-After": "1"} if self.status_code in (429, 503) else None
        return JSONResponse(self.body(), self.status_code, headers)


def api_error(error: Exception) -> ApiError:
    """What a client is told of an exception; of one that is not the client's doing, no more than that."""
    match error:
        case ApiError():
            return error
        case QueueFullError():
            return ApiError(429, str(error), "rate_limit_exceeded")
        case EngineStoppedError():
            return ApiError(503, str(error), "unavailable")
        case OctavoError():
            return ApiError(400, str(error))
        case RequestValidationError():
            return _invalid(error.errors())
        case StarletteError():
            return ApiError(error.status_code, str(error.detail))
        case _:
            return ApiError(500, "the server failed on this request; its log says more", "internal_error")


def answer_errors(app: FastAPI) -> None:
    """Let an application answer every exception by `api_error`."""

    async def respond(request: Request, error: Exception) -> JSONResponse:
        return api_error(error).response()

    for kind in (ApiError, OctavoError, RequestValidationError, StarletteError, Exception):
        app.add_exception_handler(kind, respond)


def _invalid(errors: Sequence[Any]) -> ApiError:
    """Of several mistakes in a body, the first."""
    first = errors[0]
    if first["type"] == "json_invalid":
        return ApiError(400, f"the body is not JSON: {first['ctx']['error']}", "invalid_json")
    # The first part of a place is "body".
    param = ".".join(str(part) for part in first["loc"][1:])
    match first["type"]:
        case "extra_forbidden":
            return ApiError(400, f"{param} is not supported by this server", "unsupported_parameter", param)
        case "missing" if param:
            return ApiError(400, f"{param} is missing", "missing_parameter", param)
        case "missing" | "model_attributes_type":
            return ApiError(400, "the body must be a JSON object, sent as application/json", "invalid_json")
    message = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {message}" if param else message, "invalid_value", param or None)

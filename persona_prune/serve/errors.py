"""Errors as OpenAI's clients expect them: a status code and ``{"error": {message, type, param, code}}``."""

import logging
from collections.abc import Mapping

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

log = logging.getLogger(__name__)


class ApiError(Exception):
    """A request that isn't answered.

    Attributes:
        status: HTTP status code.
        message: what is wrong and how to mend it.
        param: the request's parameter at fault.
        code: a short name for programs.
        headers: of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, object]:
        """Return the JSON body."""
        kind = {429: "rate_limit_error", 500: "server_error", 503: "service_unavailable_error"}
        return {
            "error": {
                "message": self.message,
                "type": kind.get(self.status, "invalid_request_error"),
                "param": self.param,
                "code": self.code,
            }
        }

    def response(self) -> JSONResponse:
        """Return the whole response."""
        return JSONResponse(self.body(), self.status, self.headers)


def closing_error() -> ApiError:
    """Return the error of a request that the shutdown of the server cuts short."""
    return ApiError(503, "the server is shutting down", code="shutting_down", headers={"Retry-After": "10"})


def internal_error() -> ApiError:
    """Return the error of a request that failed by no fault of its own; the details are in the server's log."""
    return ApiError(500, "the server failed to answer; its log says why", code="internal_error")


def handle_errors(app: FastAPI) -> None:
    """Make every error of ``app`` look the same, those of the framework too."""

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> JSONResponse:
        return error.response()

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> JSONResponse:
        reasons = {404: f"there is nothing at {request.url.path[:80]}", 405: f"{request.method} is not allowed here"}
        message = reasons.get(error.status_code, str(error.detail))
        return ApiError(error.status_code, message, headers=error.headers).response()

    @app.exception_handler(Exception)
    async def unexpected(_: Request, __: Exception) -> JSONResponse:
        return internal_error().response()

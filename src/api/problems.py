"""The service's error responses: RFC 9457 problem details, made from errors and their statuses."""

import errno
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from ..errors import PivotError, lacking

__all__ = [
    "BadRequest",
    "Busy",
    "Forbidden",
    "NotCompleted",
    "NotFound",
    "Refused",
    "TooLarge",
    "TooMany",
    "Unauthorized",
    "handle_problems",
    "plain",
    "problem",
]

log = logging.getLogger("pivot")
RETRY_SECONDS = 10
FULL = (errno.ENOSPC, errno.EDQUOT)


class Refused(PivotError):
    """A refused request. `retry_after` is in seconds. `more` is added to the response."""

    status = 400

    def __init__(self, message: str, retry_after: int | None = None, **more: object) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.more = more


class BadRequest(Refused):
    """A malformed request: no form, no file, or a wrong parameter."""


class Unauthorized(Refused):
    """No API key, or a wrong one."""

    status = 401


class Forbidden(Refused):
    """A request from a page of another web site."""

    status = 403


class NotFound(Refused):
    """No such job, file or address, or one of another owner."""

    status = 404


class NotCompleted(Refused):
    """The job has no results."""

    status = 409


class TooLarge(Refused):
    """The upload exceeds the limit."""

    status = 413


class TooMany(Refused):
    """Too many submissions from one client."""

    status = 429


class Busy(Refused):
    """The server has no capacity now."""

    status = 503


TITLES = {
    "BadConfig": "Bad configuration",
    "BadScan": "Unreadable scan",
    "BadCheckpoint": "Unusable model",
    "BadOutput": "Results cannot be written",
    "PivotError": "Inference failed",
    "NotCompleted": "No results",
    "TooLarge": "Upload too large",
    "TooMany": "Too many requests",
}
BY_STATUS = {400: "BadRequest", 401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 413: "TooLarge"}


def problem(error: PivotError) -> dict[str, Any]:
    """The problem details of an error."""
    kind = type(error).__name__
    title = TITLES.get(kind) or HTTPStatus(error.status).phrase
    more = error.more if isinstance(error, Refused) else {}
    return {"type": f"urn:pivot:{kind}", "title": title, "status": error.status, "detail": str(error), **more}


def plain(error: Exception) -> PivotError | None:
    """The error for the client, or None for an unexpected one. A missing resource of the server becomes `Busy`."""
    match error:
        case PivotError():
            return error
        case DBAPIError() | PoolTimeoutError():
            log.warning("the database does not answer: %s", type(error).__name__)
            return Busy("the database does not answer: try again", retry_after=RETRY_SECONDS)
    match lacking(error):
        case OSError(errno=errno.EMFILE | errno.ENFILE):
            return Busy("the server has too many files open: try again", retry_after=RETRY_SECONDS)
        case OSError(errno=number) if number in FULL:
            return Busy("the disk of the server is full: delete jobs, or try again later", retry_after=60)
        case MemoryError() | OSError(errno=errno.EAGAIN | errno.ENOMEM):
            return Busy("the server has no memory or thread to spare: try again", retry_after=RETRY_SECONDS)
    return None


def handle_problems(app: FastAPI) -> None:
    """Make every error of the app a problem."""
    app.add_exception_handler(PivotError, _pivot_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid_parameters)
    for kind in (DBAPIError, PoolTimeoutError, OSError, MemoryError, RuntimeError):
        app.add_exception_handler(kind, _missing_resource)
    app.add_exception_handler(Exception, _unexpected)


def _answer(details: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    return JSONResponse(details, details["status"], headers, media_type="application/problem+json")


def _pivot_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, PivotError)  # noqa: S101 - as registered above
    headers = {}
    if isinstance(error, Refused) and error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = "Bearer"
    return _answer(problem(error), headers)


def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101
    phrase = HTTPStatus(error.status_code).phrase
    kind = BY_STATUS.get(error.status_code)
    details = {"type": f"urn:pivot:{kind}" if kind else "about:blank", "title": phrase, "status": error.status_code}
    return _answer({**details, "detail": str(error.detail)}, dict(error.headers or {}))


def _invalid_parameters(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101
    wrong = "; ".join(f"{'.'.join(map(str, item['loc'][1:]))}: {item['msg']}" for item in error.errors())
    return _pivot_error(request, BadRequest(wrong))


def _missing_resource(request: Request, error: Exception) -> Response:
    if (reason := plain(error)) is None:
        raise error
    return _pivot_error(request, reason)


def _unexpected(_request: Request, error: Exception) -> Response:
    # `ServerErrorMiddleware` raises the error again, and `BoundedApp` logs its place.
    detail = f"unexpected {type(error).__name__}; see the server's log"
    return _answer({"type": "about:blank", "title": "Internal Server Error", "status": 500, "detail": detail})

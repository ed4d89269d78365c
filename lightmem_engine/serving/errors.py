"""Errors as HTTP answers: one JSON shape, never a stack trace."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic_core import ErrorDetails
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from lightmem_engine import errors
from lightmem_engine.runtime.complain import complain
from lightmem_engine.serving.context import CLIENT_LEFT, request_id

logger = logging.getLogger(__name__)


class UpstreamUnreachable(errors.BackendUnavailable):
    """The model server behind the gateway cannot be reached, or broke off."""

    code = "upstream_unavailable"


class UpstreamTimeout(errors.BackendUnavailable):
    """The model server behind the gateway did not answer in time."""

    code = "upstream_timeout"


STATUS: dict[type[errors.LightMemError], int] = {  # the first that fits
    errors.InvalidInput: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.ModelError: 502,
    UpstreamUnreachable: 502,
    UpstreamTimeout: 504,
    errors.Overloaded: 503,
    errors.BackendUnavailable: 503,
}
CODES = {401: "unauthorized", 403: "forbidden", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}
RETRY_AFTER_SECONDS = "1"


def install(app: FastAPI) -> None:
    """Answer every failure of the app in our shape."""
    app.add_exception_handler(errors.LightMemError, _handle)
    app.add_exception_handler(HTTPException, _handle)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(ClientDisconnect, _left)
    app.add_exception_handler(Exception, _unknown)


def body(code: str, message: str, status: int, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The error answer."""
    return JSONResponse(shape(code, message), status, dict(headers or {}))


def shape(code: str, message: str) -> dict[str, Any]:
    """The error object, with the id of the request that failed."""
    shown = message.encode("utf-8", "backslashreplace").decode()  # it may quote what the client sent
    return {"error": {"code": code, "message": shown, "request_id": request_id() or uuid.uuid4().hex}}


def answer(error: errors.LightMemError | HTTPException) -> JSONResponse:
    """The answer to a failure that is known."""
    if isinstance(error, HTTPException):
        code = CODES.get(error.status_code, "invalid_input")
        return body(code, str(error.detail), error.status_code, error.headers)
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return body(error.code, str(error), status, {"retry-after": RETRY_AFTER_SECONDS} if status == 503 else None)


def sentences(details: list[ErrorDetails] | list[Any], skip: int = 0) -> str:
    """Pydantic's findings as text, without the values they were found in. skip: leading parts of each place."""
    places = [(".".join(str(part) for part in item["loc"][skip:]), item["msg"]) for item in details]
    return "; ".join(f"{place}: {what}" if place else what for place, what in places)


async def _handle(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.LightMemError | HTTPException)
    response = answer(error)
    if response.status_code >= 500:
        complain(logger, f"a request failed with {response.status_code}", error, logging.ERROR)
    return response


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    return body("invalid_input", sentences(list(error.errors()), skip=1), 400)


async def _left(request: Request, error: Exception) -> JSONResponse:
    return body("client_left", "the client left before its body ended", CLIENT_LEFT)


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    return body("internal", "internal error", 500)

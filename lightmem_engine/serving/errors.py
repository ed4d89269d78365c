"""Errors as HTTP answers: one JSON shape, never a stack trace."""

from __future__ import annotations

import logging
import uuid

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from lightmem_engine import errors

logger = logging.getLogger(__name__)

STATUS: dict[type[errors.LightMemError], int] = {
    errors.InvalidInput: 400,
    errors.NotFound: 404,
    errors.Conflict: 409,
    errors.ModelError: 502,
    errors.Overloaded: 503,
    errors.BackendUnavailable: 503,
}
RETRY_AFTER_SECONDS = "1"


def install(app: FastAPI) -> None:
    """Answer every failure of the app in our shape."""
    app.add_exception_handler(errors.LightMemError, _known)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _unknown)


def body(code: str, message: str, status: int, headers: dict[str, str] | None = None) -> JSONResponse:
    """The error answer."""
    request_id = uuid.uuid4().hex
    error = {"code": code, "message": message, "request_id": request_id}
    return JSONResponse({"error": error}, status, {"x-request-id": request_id, **(headers or {})})


async def _known(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, errors.LightMemError)
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    if status >= 500:
        logger.error("%s %s: %s", request.method, request.url.path, error)
    return body(error.code, str(error), status, {"retry-after": RETRY_AFTER_SECONDS} if status == 503 else None)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    where = [(".".join(str(part) for part in item["loc"][1:]), item["msg"]) for item in error.errors()]
    return body("invalid_input", "; ".join(f"{place}: {what}" if place else what for place, what in where), 400)


async def _http(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}.get(error.status_code, "invalid_input")
    return body(code, str(error.detail), error.status_code, dict(error.headers or {}))


async def _unknown(request: Request, error: Exception) -> JSONResponse:
    logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return body("internal", "internal error", 500)

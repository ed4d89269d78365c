"""What is true of every request: its id, its log line, its place in the metrics, its `Date`."""

from __future__ import annotations

import email.utils
import logging
import re
import time
import uuid
from contextvars import ContextVar

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightmem_engine.serving.metrics import Metrics

REQUEST_ID_HEADER = b"x-request-id"
CLIENT_LEFT = 499  # no answer was sent; the number is nginx's

access_log = logging.getLogger("lightmem_engine.access")

_request_id: ContextVar[str] = ContextVar("request_id", default="")
_SANE_ID = re.compile(rb"[\x21-\x7e]{1,128}")


def request_id() -> str:
    """The id of the request that this task serves; empty outside of one."""
    return _request_id.get()


class RequestContext:
    """ASGI middleware around everything else.

    An answer that another server gave (`state["foreign"]`) keeps exactly the headers it came with.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Name the request, serve it, count it, log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        identifier = _sane_id(scope)
        _request_id.set(identifier)
        state = scope.setdefault("state", {})
        state["request_id"] = identifier
        started = time.perf_counter()
        status = CLIENT_LEFT

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not state.get("foreign"):
                    message = {**message, "headers": _with_ours(list(message.get("headers", ())), identifier)}
            await send(message)

        try:
            await self._app(scope, receive, named)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.perf_counter() - started
            route = state.get("route") or getattr(scope.get("route"), "path", "unknown")
            path = _without_names(scope["path"], route)
            self._metrics.request(scope["method"], route, status)
            caller = state.get("caller")
            access_log.info(
                "%s %s %d %.1f ms request %s tenant %s",
                scope["method"],
                path,
                status,
                seconds * 1000,
                identifier,
                caller.tenant if caller else "-",
                extra={
                    "method": scope["method"],
                    "path": path,
                    "status": status,
                    "ms": round(seconds * 1000, 1),
                    "request_id": identifier,
                    "tenant": caller.tenant if caller else None,
                },
            )


def _sane_id(scope: Scope) -> str:
    given = next((value for name, value in scope["headers"] if name == REQUEST_ID_HEADER), b"")
    return given.decode("ascii") if _SANE_ID.fullmatch(given) else uuid.uuid4().hex


def _with_ours(headers: list[tuple[bytes, bytes]], identifier: str) -> list[tuple[bytes, bytes]]:
    names = {name.lower() for name, _ in headers}
    if REQUEST_ID_HEADER not in names:
        headers.append((REQUEST_ID_HEADER, identifier.encode()))
    if b"date" not in names:
        headers.append((b"date", email.utils.formatdate(usegmt=True).encode()))
    return headers


def _without_names(path: str, route: str) -> str:
    """A path that names no user or memory, and cannot forge a line of the log."""
    if path.startswith("/v1/memory/"):
        return route if route.startswith("/") else f"/v1/memory/... ({route})"
    return path if path.isprintable() else repr(path)

"""Bounds: the size of a request, and how many are under way at once."""

from __future__ import annotations

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightmem_engine.errors import Overloaded
from lightmem_engine.serving import errors
from lightmem_engine.serving.access import OPEN_PATHS
from lightmem_engine.serving.metrics import Metrics

UNLIMITED = frozenset({"/v1/memory/import"})  # read piece by piece, and an admin's alone

UNLIMITED = frozenset({"/v1/memory/import"})  # read piece by piece, and an admin's alone


class BodyLimit:
    """ASGI middleware: 413 when a body is, or grows, larger than `max_bytes`."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, counting its bytes."""
        if scope["type"] != "http" or scope["path"] in UNLIMITED:
            await self._app(scope, receive, send)
            return
        refusal = HTTPException(413, f"the body is larger than {self._max_bytes} bytes", {"connection": "close"})
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            await errors.answer(refusal)(scope, receive, send)
            return
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise refusal
            return message

        await self._app(scope, counted, send)


class Capacity:
    """ASGI middleware: 503 with Retry-After beyond so many chats, or so many other requests, under way."""

    def __init__(self, app: ASGIApp, max_chats: int, max_requests: int, metrics: Metrics) -> None:
        self._app = app
        self._limits = {"chat": max_chats, "other": max_requests}
        self._running = {"chat": 0, "other": 0}
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve the request if there is room; health and metrics always have room."""
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        kind = "chat" if scope["path"] == "/v1/chat/completions" else "other"
        if self._running[kind] >= self._limits[kind]:
            scope.setdefault("state", {})["route"] = "refused"
            refusal = Overloaded(f"{self._running[kind]} requests are under way; try again in a moment")
            await errors.answer(refusal)(scope, receive, send)
            return
        self._running[kind] += 1
        self._metrics.running(kind, 1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._running[kind] -= 1
            self._metrics.running(kind, -1)

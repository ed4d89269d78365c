"""Everything that is not ours goes to the model server, and what it says comes back, byte for byte."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lightmem_engine.errors import LightMemError
from lightmem_engine.serving import errors
from lightmem_engine.serving.access import OPEN_PATHS
from lightmem_engine.serving.backends import Answer
from lightmem_engine.serving.connection import uninterrupted, while_connected
from lightmem_engine.serving.upstream import Upstream

CHAT_PATH = "/v1/chat/completions"
NATIVE_PREFIX = "/v1/memory/"


class Gateway:
    """ASGI middleware: our paths go inward, all others through."""

    def __init__(self, app: ASGIApp, upstream: Upstream) -> None:
        self._app = app
        self._upstream = upstream

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve or pass on."""
        if scope["type"] != "http" or _is_ours(scope):
            await self._app(scope, receive, send)
            return
        scope.setdefault("state", {})["route"] = "upstream"
        await pass_through(self._upstream, scope, receive, send)


async def pass_through(upstream: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
    """Hand a request on and its answer back, as long as the client is there."""
    upload = _Upload(receive)
    await while_connected(upload.rest, send, lambda noting: _pass_on(upstream, scope, upload, noting))


async def _pass_on(upstream: Upstream, scope: Scope, upload: _Upload, send: Send) -> None:
    names = {name for name, _ in scope["headers"]}
    has_body = bool(names & {b"content-length", b"transfer-encoding"})
    if not has_body:
        upload.finish()
    query = scope["query_string"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    try:
        response = await upstream.send(scope["method"], target, scope["headers"], upload.pieces() if has_body else None)
    except (LightMemError, HTTPException) as error:
        await errors.answer(error)(scope, upload.rest, send)
        return
    finally:
        upload.finish()
    scope.setdefault("state", {})["foreign"] = True
    await send_through(upstream.answer(response), send)


async def send_through(answer: Answer, send: Send) -> None:
    """An answer as it is. One that breaks off half-way breaks off here, too, so that nobody takes it for whole."""
    try:
        await send({"type": "http.response.start", "status": answer.status, "headers": list(answer.headers)})
        try:
            async for piece in answer.body:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
        except LightMemError:
            return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
    finally:
        await uninterrupted(_close(answer))


async def _close(answer: Answer) -> None:
    await answer.close()


def _is_ours(scope: Scope) -> bool:
    path = scope["path"]
    return (
        path in OPEN_PATHS
        or path == NATIVE_PREFIX.rstrip("/")
        or path.startswith(NATIVE_PREFIX)
        or (path == CHAT_PATH and scope["method"] == "POST")
    )


class _Upload:
    """A request's body on its way; afterwards, who waits for the client to leave may listen."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._read = asyncio.Event()

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body, no faster than it is taken."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                self._read.set()
                raise HTTPException(400, "the client left before its body ended")
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                return

    def finish(self) -> None:
        """Nobody reads the body any more."""
        self._read.set()

    async def rest(self) -> Message:
        """As `receive`, once the body has been read."""
        await self._read.wait()
        return await self._receive()

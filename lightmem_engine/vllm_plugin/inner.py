"""vLLM's application in this process as the model of a chat: the request goes in as ASGI, the answer comes back.

vLLM's handlers validate, queue, stream and cancel as they do for `vllm serve`; nothing of theirs is called by name.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Scope

from lightmem_engine.runtime.complain import complain
from lightmem_engine.serving.backends import Answer, ChatRequest
from lightmem_engine.serving.connection import uninterrupted
from lightmem_engine.serving.errors import UpstreamUnreachable
from lightmem_engine.types import OpenTurn
from lightmem_engine.vllm_plugin.policy import cleaned, stamped

HANG_UP_SECONDS = 10.0

logger = logging.getLogger(__name__)


class InnerBackend:
    """See `Backend`; for one request. scope: the request's own, whose path and headers the inner application sees.

    attention: as in `PluginSettings`.
    """

    def __init__(self, app: ASGIApp, scope: Scope, tenant: str, *, attention: bool = False) -> None:
        self._app = app
        self._attention = attention
        self._scope = scope
        self._tenant = tenant

    async def begin(self, request: ChatRequest, turn: OpenTurn | None) -> Answer:
        """See `Backend`. Raises what vLLM's handler raises before its answer begins."""
        if turn is None:
            raw = cleaned(request.raw, self._tenant)
        else:
            raw = stamped(request.body or {}, turn, attention=self._attention)
        call = _Call(self._app, with_body(self._scope, raw), raw)
        try:
            start = await call.next()
        except BaseException:  # cancelled too: whatever ends the wait, vLLM must not go on writing for nobody
            await uninterrupted(call.hang_up())
            raise
        headers = [(bytes(name), bytes(value)) for name, value in start.get("headers", ())]
        kind = next((value for name, value in headers if name.lower() == b"content-type"), b"")
        is_stream = kind.partition(b";")[0].strip().lower() == b"text/event-stream"
        return Answer(start["status"], headers, call.pieces(), call.hang_up, is_stream=is_stream, foreign=True)

    async def check(self) -> bool:
        """The model is in this server."""
        return True

    async def aclose(self) -> None:
        """Nothing is held between requests."""


def with_body(scope: Scope, raw: bytes) -> Scope:
    """The scope of the same request with another body."""
    dropped = (b"content-length", b"transfer-encoding")
    headers = [(name, value) for name, value in scope["headers"] if name not in dropped]
    return {**scope, "headers": [*headers, (b"content-length", str(len(raw)).encode())]}


def body_then(raw: bytes, rest: Callable[[], Any]) -> Callable[[], Any]:
    """A `receive` that gives the body, and after it whatever `rest` gives."""
    given = False

    async def receive() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": raw, "more_body": False}
        message: Message = await rest()
        return message

    return receive


class _Call:
    """One request inside: its answer is taken piece by piece, and no faster than the client takes it."""

    def __init__(self, app: ASGIApp, scope: Scope, raw: bytes) -> None:
        self._gone = asyncio.Event()
        self._sent: asyncio.Queue[Message | None] = asyncio.Queue(1)
        self._error: Exception | None = None
        self._receive = body_then(raw, self._disconnected)
        self._task = asyncio.ensure_future(self._run(app, scope))

    async def next(self) -> Message:
        """The next message of the answer. Raises what the application raised, `UpstreamUnreachable` at its end."""
        message = await self._sent.get()
        if message is not None:
            return message
        if self._error is not None:
            raise self._error
        raise UpstreamUnreachable("the model server ended without an answer")

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body."""
        while True:
            message = await self.next()
            if message.get("body"):
                yield bytes(message["body"])
            if not message.get("more_body"):
                return

    async def hang_up(self) -> None:
        """The client has what it wants, or has gone: vLLM hears of it and frees what it holds."""
        self._gone.set()
        with contextlib.suppress(asyncio.QueueEmpty):
            self._sent.get_nowait()  # a `send` that waits may go on, and meets the end
        _, late = await asyncio.wait({self._task}, timeout=HANG_UP_SECONDS)
        for task in late:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self._receive, self._send)
        except (OSError, ClientDisconnect) as error:
            if not self._gone.is_set():
                self._error = error
        except Exception as error:  # noqa: BLE001 - vLLM's routes may raise anything; who asked gets it from `next`
            self._error = error
            if self._gone.is_set():  # nobody asks any more
                complain(logger, "vLLM failed a request whose client had gone", error)
        if not self._gone.is_set():
            await self._sent.put(None)

    async def _send(self, message: Message) -> None:
        if self._gone.is_set():
            raise OSError("the client has gone")
        await self._sent.put(message)

    async def _disconnected(self) -> Message:
        await self._gone.wait()
        return {"type": "http.disconnect"}

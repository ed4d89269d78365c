"""A chat turn over HTTP: identity, memory, model, memory, answer.

Without an identity the answer goes through untouched. With one, the user's words are on disk before the model is
asked, and the reply before the client learns that it is finished; the client that leaves, and the model that breaks
off, leave a partial reply. Memory that fails is reported and never fails a chat.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from starlette.types import Message, Send

from lightmem_engine.errors import InvalidInput, LightMemError
from lightmem_engine.runtime.complain import complain
from lightmem_engine.serving.backends import Answer, Backend, ChatRequest, Turns
from lightmem_engine.serving.connection import uninterrupted
from lightmem_engine.serving.errors import UpstreamUnreachable, shape
from lightmem_engine.serving.gateway import send_through
from lightmem_engine.serving.identity import Identity
from lightmem_engine.serving.metrics import Metrics
from lightmem_engine.serving.reply import ReplyWatch, read_object
from lightmem_engine.serving.sse import DONE, EventSplitter, data_of, event_of, event_with_member, with_member
from lightmem_engine.serving.tracing import span
from lightmem_engine.types import OpenTurn

logger = logging.getLogger(__name__)

_LENGTH = b"content-length"


class ChatExchange:
    """One request to `/v1/chat/completions` and its answer; `run` once."""

    def __init__(
        self, engine: Turns, backend: Backend, metrics: Metrics, request: ChatRequest, identity: Identity | None
    ) -> None:
        self._engine = engine
        self._backend = backend
        self._metrics = metrics
        self._request = request
        self._identity = identity
        self._watch = ReplyWatch()
        self._turn: OpenTurn | None = None
        self._closed = False
        self._started = time.perf_counter()

    async def run(self, send: Send, mark_foreign: Callable[[], None]) -> None:
        """Answer. Raises `LightMemError` as long as nothing has been sent.

        mark_foreign: called before an answer that must keep exactly its own headers.
        """
        timed = self._timed(send)
        async with self._engine.foreground():
            if self._identity is None:
                with span("backend"):
                    answer = await self._backend.begin(self._request, None)
                    if answer.foreign:
                        mark_foreign()
                    await send_through(answer, timed)
            else:
                await self._with_memory(self._identity, timed)
        self._metrics.e2e_latency.observe(time.perf_counter() - self._started)

    async def _with_memory(self, identity: Identity, send: Send) -> None:
        turn = self._turn = await self._open(identity)
        try:
            with span("backend"):
                answer = await self._backend.begin(self._request, turn)
                try:
                    await (self._stream if answer.is_stream else self._whole)(answer, send)
                finally:
                    await uninterrupted(_close(answer.close))
        finally:
            if not self._closed:
                await self._close("partial")

    async def _whole(self, answer: Answer, send: Send) -> None:
        raw = b"".join([piece async for piece in answer.body])
        body = read_object(raw) if answer.status == 200 else {}
        if self._watch.see_answer(body):
            stored = await self._close("complete")
            raw = with_member(raw, "memory", self._memory(stored))
        headers = [(name, value) for name, value in answer.headers if name.lower() != _LENGTH]
        headers.append((_LENGTH, str(len(raw)).encode()))
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": raw, "more_body": False})

    async def _stream(self, answer: Answer, send: Send) -> None:
        headers = [(name, value) for name, value in answer.headers if name.lower() != _LENGTH]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        events = EventSplitter()
        try:
            async for piece in answer.body:
                for event in events.feed(piece):
                    await send(_part(await self._event(event)))
            rest = events.rest()
            if rest:
                await send(_part(await self._event(rest)))
            if not (self._watch.finish_reason or self._watch.done or self._watch.failed):
                raise UpstreamUnreachable("the model server ended the stream before the answer")
        except LightMemError as error:
            if not self._closed:
                await self._close("partial")
            await send(_part(event_of(shape(error.code, str(error))) + DONE))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _event(self, event: bytes) -> bytes:
        """The event as the client gets it. The reply is on disk before the one that finishes it, or ends all."""
        data = data_of(event)
        if data is None:
            return event
        finishes = self._watch.see_event(data)
        if finishes:
            stored = await self._close("complete")
            return event_with_member(event, data, "memory", self._memory(stored))
        if self._watch.done and not self._closed:
            await self._close("partial" if self._watch.failed else "complete")
        return event

    async def _open(self, identity: Identity) -> OpenTurn:
        messages = self._request.body["messages"] if self._request.body else []
        try:
            with span("open_turn"):
                turn = await self._opened(identity, messages)
        except InvalidInput:
            raise
        except (LightMemError, OSError) as error:
            code = error.code if isinstance(error, LightMemError) else "store_error"
            complain(logger, "memory could not be opened for a chat", error, logging.ERROR)
            self._closed = True
            turn = OpenTurn("", tuple(messages), degraded=code)
        self._metrics.recall_latency.observe(turn.read_ms / 1000)
        if turn.degraded:
            self._metrics.degraded.labels(turn.degraded).inc()
        return turn

    async def _opened(self, identity: Identity, messages: Sequence[Mapping[str, Any]]) -> OpenTurn:
        """The engine's turn. One whose client leaves meanwhile is closed, not left open in the engine."""
        work = asyncio.ensure_future(self._engine.open_turn(identity.scope, messages, identity.options))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait({work})
            if work.exception() is None:
                await self._engine.close_turn(work.result().turn_id, "", "partial")
            raise

    async def _close(self, status: str) -> bool:
        """Log what the client has seen of the reply; says whether it is on disk."""
        if self._closed or self._turn is None:
            return False
        self._closed = True
        work = self._engine.close_turn(
            self._turn.turn_id, self._watch.text, status, tool_calls=self._watch.tool_calls or None
        )
        try:
            with span("close_turn"):
                stored = await uninterrupted(work)
        except (LightMemError, OSError) as error:
            complain(logger, "a reply was not stored", error, logging.ERROR)
            stored = False
        self._metrics.turns.labels("true" if stored and self._turn.stored else "false").inc()
        return stored

    def _memory(self, reply_stored: bool) -> dict[str, Any]:
        """The `memory` object of the answer."""
        assert self._turn is not None
        return {
            "used": list(self._turn.used),
            "tokens_added": self._turn.tokens_added,
            "read_ms": self._turn.read_ms,
            "stored": self._turn.stored and reply_stored,
            "degraded": self._turn.degraded,
        }

    def _timed(self, send: Send) -> Send:
        """`send` that notes when the first bytes of an answer go out."""
        waiting = True

        async def timed(message: Message) -> None:
            nonlocal waiting
            if waiting and message.get("body"):
                waiting = False
                self._metrics.time_to_first_token.observe(time.perf_counter() - self._started)
            await send(message)

        return timed


async def _close(close: Callable[[], Awaitable[None]]) -> None:
    await close()


def _part(body: bytes) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": True}

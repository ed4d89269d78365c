"""OpenAI's shapes around a chat turn with memory."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import LightMemError, NotFound
from lightmem_engine.serving.schemas import ChatBody, MemoryBody
from lightmem_engine.types import FinishReason, OpenTurn, Sampling, Scope, TurnOptions, Usage

USER_HEADER = "x-memory-user-id"
SESSION_HEADER = "x-memory-session-id"


class ChatExchange:
    """One request to `/v1/chat/completions`: `open`, then `complete` or `stream`."""

    def __init__(self, engine: LocalEngine, body: ChatBody, headers: dict[str, str]) -> None:
        if body.model not in (None, "", engine.lm.name):
            raise NotFound(f"the model {body.model!r} does not exist; this server serves {engine.lm.name!r}")
        memory = body.memory or MemoryBody()
        user = headers.get(USER_HEADER) or memory.user_id or body.user
        self._engine = engine
        self._body = body
        self._scope = Scope(user=user) if user else None
        self._options = TurnOptions(
            session=headers.get(SESSION_HEADER) or memory.session_id,
            read=memory.read,
            write=memory.write,
            top_k=memory.top_k,
            max_tokens=memory.max_tokens,
            filters=memory.filters,
        )
        self._sampling = Sampling(
            max_tokens=body.max_completion_tokens or body.max_tokens,
            temperature=1.0 if body.temperature is None else body.temperature,
            top_p=1.0 if body.top_p is None else body.top_p,
            seed=body.seed,
            stop=(body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ()),
        )
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": engine.lm.name}

    async def open(self) -> None:
        """Recall and log the question; afterwards the answer may begin."""
        self._turn = await self._engine.open_turn(self._scope, self._body.messages, self._options)

    async def complete(self) -> dict[str, Any]:
        """The whole answer as one `chat.completion`; the reply is on disk (or `stored` says no) before it returns."""
        reply: list[str] = []
        finish: FinishReason | None = None
        usage = Usage()
        try:
            async for delta in self._engine.generate(self._turn.messages, self._sampling):
                reply.append(delta.text)
                finish, usage = delta.finish_reason or finish, delta.usage or usage
        finally:
            stored = await _uninterrupted(self._close("".join(reply), finish))
        message = {"role": "assistant", "content": "".join(reply)}
        answer = self._head | {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish}],
            "usage": _usage(usage),
        }
        return answer | self._memory(stored)

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events; the reply is on disk before the chunk that has `finish_reason`."""
        reply: list[str] = []
        closed = False
        yield self._chunk({"role": "assistant", "content": ""})
        try:
            async for delta in self._engine.generate(self._turn.messages, self._sampling):
                if delta.text:
                    reply.append(delta.text)
                    yield self._chunk({"content": delta.text})
                if delta.finish_reason:
                    closed = True
                    stored = await _uninterrupted(self._close("".join(reply), delta.finish_reason))
                    yield self._chunk({}, delta.finish_reason, self._memory(stored))
                    if self._body.stream_options and self._body.stream_options.include_usage:
                        chunk = self._head | {"object": "chat.completion.chunk", "choices": []}
                        yield _event(chunk | {"usage": _usage(delta.usage or Usage())})
        except LightMemError as error:
            yield _event({"error": {"code": error.code, "message": str(error), "request_id": self._head["id"]}})
        finally:
            if not closed:
                await _uninterrupted(self._close("".join(reply), None))
        yield "data: [DONE]\n\n"

    async def _close(self, reply: str, finish: FinishReason | None) -> bool:
        return await self._engine.close_turn(self._turn.turn_id, reply, "complete" if finish else "partial")

    def _chunk(
        self, delta: dict[str, Any], finish: FinishReason | None = None, extra: dict[str, Any] | None = None
    ) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return _event(self._head | {"object": "chat.completion.chunk", "choices": [choice]} | (extra or {}))

    def _memory(self, reply_stored: bool) -> dict[str, Any]:
        """The `memory` object; absent when the request named nobody."""
        if self._scope is None:
            return {}
        turn: OpenTurn = self._turn
        return {
            "memory": {
                "used": list(turn.used),
                "tokens_added": turn.tokens_added,
                "read_ms": turn.read_ms,
                "stored": turn.stored and reply_stored,
                "degraded": turn.degraded,
            }
        }


async def _uninterrupted(work: Any) -> Any:
    """Finish `work` even if the client goes away meanwhile."""
    return await asyncio.shield(asyncio.ensure_future(work))


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _event(data: dict[str, Any]) -> str:
    return f"data: {json.dumps(data, ensure_ascii=False, separators=(',', ':'))}\n\n"

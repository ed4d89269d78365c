"""An ASGI application as the model of a chat."""

from __future__ import annotations

import asyncio
import json

import pytest
from starlette.types import Message, Receive, Scope, Send

from lightmem_engine.serving.backends import ChatRequest
from lightmem_engine.serving.errors import UpstreamUnreachable
from lightmem_engine.types import OpenTurn
from lightmem_engine.vllm_plugin.inner import InnerBackend

SCOPE: Scope = {
    "type": "http",
    "method": "POST",
    "path": "/v1/chat/completions",
    "headers": [(b"content-length", b"2")],
}
REQUEST = ChatRequest(b"{}", {}, [])


def _start(kind: bytes) -> Message:
    return {"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]}


async def test_the_application_reads_what_memory_made_of_the_request() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = (await receive())["body"]
        assert dict(scope["headers"])[b"content-length"] == str(len(body)).encode()
        await send(_start(b"application/json"))
        await send({"type": "http.response.body", "body": body})

    turn = OpenTurn("t", ({"role": "user", "content": "placed"},), salt="s")
    answer = await InnerBackend(app, SCOPE, "red").begin(REQUEST, turn)
    sent = json.loads(b"".join([piece async for piece in answer.body]))
    await answer.close()
    assert sent["messages"] == [{"role": "user", "content": "placed"}]
    assert sent["cache_salt"] == "s"
    assert (answer.status, answer.is_stream) == (200, False)


async def test_a_stream_is_taken_no_faster_than_it_is_read_and_hears_of_the_end() -> None:
    sent, ended = 0, asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal sent
        await receive()
        await send(_start(b"text/event-stream; charset=utf-8"))
        try:
            while True:
                await send({"type": "http.response.body", "body": b"data: x\n\n", "more_body": True})
                sent += 1
        finally:
            ended.set()

    answer = await InnerBackend(app, SCOPE, "red").begin(REQUEST, None)
    assert answer.is_stream
    assert await anext(answer.body) == b"data: x\n\n"
    await asyncio.sleep(0.01)
    assert sent <= 3
    await asyncio.wait_for(answer.close(), 30)
    assert ended.is_set()


async def test_one_that_waits_for_a_disconnect_gets_it() -> None:
    heard: list[str] = []
    waiting = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        waiting.set()
        heard.append((await receive())["type"])

    begun = asyncio.ensure_future(InnerBackend(app, SCOPE, "red").begin(REQUEST, None))
    await waiting.wait()
    begun.cancel()
    await asyncio.wait({begun})
    assert heard == ["http.disconnect"]


async def test_what_the_application_raises_is_raised() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("a defect")

    async def empty(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()

    with pytest.raises(ValueError, match="a defect"):
        await InnerBackend(broken, SCOPE, "red").begin(REQUEST, None)
    with pytest.raises(UpstreamUnreachable):
        await InnerBackend(empty, SCOPE, "red").begin(REQUEST, None)

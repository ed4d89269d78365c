"""A real HTTP server on a free port whose chat endpoint does what a test scripts."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse


@dataclass
class Script:
    """What the server answers, and what it was asked."""

    status: int = 200
    body: object = None
    raw: bytes | None = None
    events: list[object] = field(default_factory=list)
    delay: float = 0.0
    together: int = 0  # answers wait until so many have been in flight at once
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    url: str = ""
    reply: Callable[[dict[str, Any]], str] | None = None  # text that depends on the request
    count: Callable[[str], int] | None = None  # tokens of a text, for the usage of what `reply` says

    def answer(self, text: str, reason: str = "stop") -> None:
        """Answer requests that do not stream."""
        usage = {"prompt_tokens": 11, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 8}}
        message = {"role": "assistant", "content": text, "reasoning_content": "hidden"}
        self.body = {"choices": [{"message": message, "finish_reason": reason}], "usage": usage}

    def pieces(self, *texts: str, reason: str | None = "stop") -> None:
        """Answer requests that stream."""
        self.events = [{"choices": [{"delta": {"role": "assistant", "content": ""}}]}]
        self.events += [{"choices": [{"delta": {"content": text}, "finish_reason": None}]} for text in texts]
        if reason:
            self.events.append({"choices": [{"delta": {}, "finish_reason": reason}]})
            self.events.append({"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 2}})


@contextmanager
def running(script: Script) -> Iterator[Script]:
    """The server, for the length of the block; `script.url` is its base URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    script.url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
    server = uvicorn.Server(uvicorn.Config(_app(script), log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield script
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()


def _app(script: Script) -> FastAPI:
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        asked = await request.json()
        script.requests.append(asked)
        script.headers.append(dict(request.headers))
        script.in_flight += 1
        script.most_in_flight = max(script.most_in_flight, script.in_flight)
        await asyncio.sleep(script.delay)
        while script.most_in_flight < script.together:
            await asyncio.sleep(0.001)
        script.in_flight -= 1
        if script.status == 200 and script.requests[-1].get("stream"):
            return StreamingResponse(_stream(script), media_type="text/event-stream")
        if script.reply is not None:
            text = script.reply(asked)
            script.answer(text)
            if script.count is not None and isinstance(script.body, dict):
                read = sum(script.count(str(message["content"])) for message in asked["messages"])
                script.body["usage"] = {"prompt_tokens": read, "completion_tokens": script.count(text)}
        if script.raw is not None:
            return Response(script.raw, script.status)
        return JSONResponse(script.body, script.status)

    return app


async def _stream(script: Script) -> AsyncIterator[str]:
    yield ": a comment\n\n"
    for event in script.events:
        yield f"data: {event if isinstance(event, str) else json.dumps(event)}\n\n"
    yield "data: [DONE]\n\n"

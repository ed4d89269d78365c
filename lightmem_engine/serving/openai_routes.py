"""OpenAI's routes, and the names under which model servers say how they are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from lightmem_engine.serving.access import engine_of
from lightmem_engine.serving.chat import ChatExchange
from lightmem_engine.serving.schemas import ChatBody
from lightmem_engine.version import VERSION


def add_openai_routes(app: FastAPI) -> None:
    """Health, version, models, chat."""

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": VERSION}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        model = {"id": engine_of(request).lm.name, "object": "model", "created": 0, "owned_by": "lightmem-engine"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, body: ChatBody) -> dict[str, Any] | StreamingResponse:
        exchange = ChatExchange(engine_of(request), body, dict(request.headers))
        await exchange.open()
        if body.stream:
            return StreamingResponse(exchange.stream(), media_type="text/event-stream")
        return await exchange.complete()

"""The HTTP face: OpenAI's chat routes and the native memory routes over one engine."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import StreamingResponse

from lightmem_engine.engine import LocalEngine
from lightmem_engine.serving import errors
from lightmem_engine.serving.chat import ChatExchange
from lightmem_engine.serving.limits import BodyLimit
from lightmem_engine.serving.schemas import AddBody, ChatBody, FlushBody, SearchBody
from lightmem_engine.serving.shapes import hit_json
from lightmem_engine.types import Message, Scope
from lightmem_engine.version import VERSION


def create_app(engine: LocalEngine, max_body_bytes: int) -> FastAPI:
    """The application over an open engine, which is closed when the application stops."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await engine.aclose()

    app = FastAPI(title="LightMem Engine", version=VERSION, lifespan=lifespan)
    app.state.engine = engine
    app.add_middleware(BodyLimit, max_bytes=max_body_bytes)
    errors.install(app)
    _add_openai_routes(app)
    _add_memory_routes(app)
    return app


def _engine(request: Request) -> LocalEngine:
    engine: LocalEngine = request.app.state.engine
    return engine


def _add_openai_routes(app: FastAPI) -> None:
    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": VERSION}

    @app.get("/v1/models")
    async def models(request: Request) -> dict[str, Any]:
        model = {"id": _engine(request).lm.name, "object": "model", "created": 0, "owned_by": "lightmem-engine"}
        return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions", response_model=None)
    async def chat(request: Request, body: ChatBody) -> dict[str, Any] | StreamingResponse:
        exchange = ChatExchange(_engine(request), body, dict(request.headers))
        await exchange.open()
        if body.stream:
            return StreamingResponse(exchange.stream(), media_type="text/event-stream")
        return await exchange.complete()


def _add_memory_routes(app: FastAPI) -> None:
    @app.post("/v1/memory/add")
    async def add(request: Request, body: AddBody) -> dict[str, Any]:
        ids = await _engine(request).add(
            Scope(user=body.user_id),
            [Message(**message.model_dump()) for message in body.messages],
            session=body.session_id,
            timestamp=body.timestamp,
            metadata=body.metadata,
            wait=body.wait,
        )
        return {"message_ids": ids}

    @app.post("/v1/memory/search")
    async def search(request: Request, body: SearchBody) -> dict[str, Any]:
        hits = await _engine(request).search(
            Scope(user=body.user_id),
            body.query,
            top_k=body.top_k,
            max_tokens=body.max_tokens,
            as_of=body.as_of,
            filters=body.filters,
        )
        return {"hits": [hit_json(hit) for hit in hits]}

    @app.post("/v1/memory/flush")
    async def flush(request: Request, body: FlushBody) -> dict[str, Any]:
        return await _engine(request).flush(None if body.user_id is None else Scope(user=body.user_id))

    @app.get("/v1/memory/stats")
    async def stats(request: Request, user_id: str | None = None) -> dict[str, Any]:
        return await _engine(request).stats(None if user_id is None else Scope(user=user_id))

"""OpenAI's routes, and the names under which model servers say how they are."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.types import Receive, Scope, Send

from lightmem_engine.errors import InvalidInput, LightMemError
from lightmem_engine.serving.access import engine_of, tenant_of
from lightmem_engine.serving.backends import Backend, ChatRequest
from lightmem_engine.serving.body import parse_object
from lightmem_engine.serving.chat import ChatExchange
from lightmem_engine.serving.connection import while_connected
from lightmem_engine.serving.identity import Identity, Trust, read_identity
from lightmem_engine.serving.local_request import ChatBody
from lightmem_engine.serving.metrics import Metrics
from lightmem_engine.serving.reply import read_object
from lightmem_engine.types import Scope as MemoryScope
from lightmem_engine.version import VERSION

_NOBODY = MemoryScope(user="-")  # counting one user's messages is cheap however many there are
_CHAT_DOCS = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": ChatBody.model_json_schema(ref_template="#/components/schemas/{model}")}
        },
    }
}


def add_health_routes(app: FastAPI, backend: Backend, metrics: Metrics) -> None:
    """Health, readiness, version, metrics: open to everybody, and without anybody's data."""

    @app.get("/health")
    async def health() -> Response:
        return Response()

    @app.get("/health/ready")
    async def ready(request: Request) -> JSONResponse:
        is_well = await _stats(request, _NOBODY) is not None and engine_of(request).is_sound
        checks = {"engine": is_well, "model": await backend.check()}
        well = all(checks.values())
        return JSONResponse({"ready": well, "checks": checks}, 200 if well else 503)

    @app.get("/version")
    async def version() -> dict[str, str]:
        return {"version": VERSION}

    @app.get("/metrics")
    async def prometheus(request: Request) -> Response:
        queued = engine_of(request).queued_tokens
        return Response(metrics.render(await _stats(request), queued), media_type=CONTENT_TYPE_LATEST)


def add_chat_routes(app: FastAPI, backend: Backend, metrics: Metrics, trust: Trust, *, gateway: bool) -> None:
    """Chat; and the list of models, where the model is ours."""
    if not gateway:

        @app.get("/v1/models")
        async def models(request: Request) -> dict[str, Any]:
            model = {"id": engine_of(request).lm.name, "object": "model", "created": 0, "owned_by": "lightmem-engine"}
            return {"object": "list", "data": [model]}

    @app.post("/v1/chat/completions", response_model=None, openapi_extra=_CHAT_DOCS)
    async def chat(request: Request) -> Response:
        asked, identity = await read_chat(request, tenant_of(request), trust, gateway=gateway)
        return ChatResponse(ChatExchange(engine_of(request), backend, metrics, asked, identity))


async def read_chat(
    request: Request, tenant: str, trust: Trust, *, gateway: bool
) -> tuple[ChatRequest, Identity | None]:
    """A chat request, and whose memory it means. Raises `InvalidInput`.

    gateway: what names nobody is the model server's to judge, however odd it is.
    """
    raw = await request.body()
    headers = dict(request.headers.raw)
    body: dict[str, Any] | None
    try:
        body = parse_object(raw, request.headers.get("content-type", ""))
    except InvalidInput:
        if not gateway or read_identity(headers, read_object(raw), trust, tenant) is not None:
            raise
        body = None
    identity = read_identity(headers, body or {}, trust, tenant)
    if identity is not None and not isinstance((body or {}).get("messages"), list):
        raise InvalidInput("messages must be a list")
    identifier = request.state.request_id
    return ChatRequest(raw, body, request.headers.raw, request.scope["query_string"], identifier, tenant), identity


class ChatResponse(Response):
    """Runs the exchange when the server is ready for its answer, as long as the client is there."""

    def __init__(self, exchange: ChatExchange) -> None:
        super().__init__()
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def mark_foreign() -> None:
            scope["state"]["foreign"] = True

        await while_connected(receive, send, lambda noting: self._exchange.run(noting, mark_foreign))


async def _stats(request: Request, scope: MemoryScope | None = None) -> dict[str, Any] | None:
    """The engine's counts; None if it cannot give them."""
    try:
        return await engine_of(request).stats(scope)
    except (LightMemError, OSError):
        return None

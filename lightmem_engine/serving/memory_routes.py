"""The native routes under `/v1/memory/`: add, search, flush, stats; the other families beside them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI, Request

from lightmem_engine.errors import BackendUnavailable, Overloaded
from lightmem_engine.serving.access import caller_of, engine_of, require_admin, scope_of
from lightmem_engine.serving.entry_routes import add_entry_routes
from lightmem_engine.serving.kv_routes import add_kv_routes
from lightmem_engine.serving.memory_schemas import AddBody, FlushBody, SearchBody
from lightmem_engine.serving.portability_routes import add_portability_routes
from lightmem_engine.serving.shapes import hit_json
from lightmem_engine.serving.sleep_routes import add_sleep_routes
from lightmem_engine.types import Message


def add_memory_routes(app: FastAPI) -> None:
    """All routes of the memory."""
    add_entry_routes(app)
    add_portability_routes(app)
    add_sleep_routes(app)
    add_kv_routes(app)

    @app.post("/v1/memory/add")
    async def add(request: Request, body: AddBody) -> dict[str, Any]:
        with _discreet(request):
            ids = await engine_of(request).add(
                scope_of(request, body.user_id),
                [Message(**message.model_dump()) for message in body.messages],
                session=body.session_id,
                timestamp=body.timestamp,
                metadata=body.metadata,
                wait=body.wait,
            )
        return {"message_ids": ids}

    @app.post("/v1/memory/search")
    async def search(request: Request, body: SearchBody) -> dict[str, Any]:
        hits = await engine_of(request).search(
            scope_of(request, body.user_id),
            body.query,
            top_k=body.top_k,
            max_tokens=body.max_tokens,
            as_of=body.as_of,
            filters=body.filters,
        )
        return {"hits": [hit_json(hit) for hit in hits]}

    @app.post("/v1/memory/flush")
    async def flush(request: Request, body: FlushBody) -> dict[str, Any]:
        if body.user_id is None:
            require_admin(request)
        with _discreet(request):
            return await engine_of(request).flush(None if body.user_id is None else scope_of(request, body.user_id))

    @app.get("/v1/memory/stats")
    async def stats(request: Request, user_id: str | None = None) -> dict[str, Any]:
        if user_id is None:
            require_admin(request)
        return await engine_of(request).stats(None if user_id is None else scope_of(request, user_id))


@contextmanager
def _discreet(request: Request) -> Iterator[None]:
    """What keeps the stages waiting concerns all users, and a model server's complaint may quote the words of another
    one: only admins read it."""
    try:
        yield
    except (BackendUnavailable, Overloaded) as error:
        if caller_of(request).admin:
            raise
        raise type(error)("memory waits for a model or a device; what was told is kept and tried again") from error

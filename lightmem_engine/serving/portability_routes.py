"""Whole memories out and in, as JSON Lines."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from lightmem_engine.serving.access import engine_of, require_admin, tenant_of


def add_portability_routes(app: FastAPI) -> None:
    """`/v1/memory/export` and `/v1/memory/import`."""

    @app.get("/v1/memory/export", response_class=StreamingResponse)
    async def export(request: Request, user_id: str | None = None) -> StreamingResponse:
        require_admin(request)
        chunks = engine_of(request).export(tenant_of(request), user_id)
        first = await anext(chunks)  # a failure is an error answer, not half an export
        return StreamingResponse(_all(first, chunks), media_type="application/x-ndjson")

    @app.post("/v1/memory/import")
    async def import_(request: Request) -> dict[str, Any]:
        require_admin(request)
        return await engine_of(request).import_(tenant_of(request), request.stream())


async def _all(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk

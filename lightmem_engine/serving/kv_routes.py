"""Kept KV caches: how many, whether they are whole, and away with them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request

from lightmem_engine.serving.access import engine_of, require_admin, tenant_of
from lightmem_engine.serving.memory_schemas import KvPurgeBody


def add_kv_routes(app: FastAPI) -> None:
    """`/v1/memory/kv`."""

    @app.get("/v1/memory/kv")
    async def stats(request: Request) -> dict[str, Any]:
        require_admin(request)
        return await engine_of(request).kv_stats()

    @app.post("/v1/memory/kv/verify")
    async def verify(request: Request) -> dict[str, int]:
        require_admin(request)
        return await engine_of(request).kv_verify()

    @app.post("/v1/memory/kv/purge")
    async def purge(request: Request, body: KvPurgeBody) -> dict[str, int]:
        if body.user_id is None:
            require_admin(request)
        return {"purged": await engine_of(request).kv_purge(tenant_of(request), body.user_id)}

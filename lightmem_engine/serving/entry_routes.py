"""Single entries and single users: read, list, change, delete."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request

from lightmem_engine.serving.access import engine_of, require_admin, scope_of, tenant_of
from lightmem_engine.serving.memory_schemas import PatchBody
from lightmem_engine.serving.shapes import entry_json
from lightmem_engine.types import EntryChange, Kind, State

Limit = Annotated[int, Query(ge=1, le=500)]


def add_entry_routes(app: FastAPI) -> None:
    """`/v1/memory/entries` and `/v1/memory/users`."""

    @app.get("/v1/memory/entries")
    async def entries(
        request: Request,
        user_id: str,
        limit: Limit = 100,
        cursor: str | None = None,
        state: State | None = None,
        kind: Kind | None = None,
        session_id: str | None = None,
    ) -> dict[str, Any]:
        scope = scope_of(request, user_id)
        page = await engine_of(request).entries(
            scope, limit=limit, cursor=cursor, state=state, kind=kind, session=session_id
        )
        return {"entries": [entry_json(entry) for entry in page.entries], "next_cursor": page.next_cursor}

    # Ids of pending messages are the callers' own and may hold anything, slashes too.
    @app.get("/v1/memory/entries/{id:path}/history")
    async def history(request: Request, id: str, user_id: str) -> dict[str, Any]:
        versions = await engine_of(request).history(scope_of(request, user_id), id)
        return {"versions": [entry_json(version) for version in versions]}

    @app.get("/v1/memory/entries/{id:path}")
    async def get(request: Request, id: str, user_id: str) -> dict[str, Any]:
        return entry_json(await engine_of(request).get(scope_of(request, user_id), id))

    @app.patch("/v1/memory/entries/{id:path}")
    async def update(request: Request, id: str, user_id: str, body: PatchBody) -> dict[str, Any]:
        tags = None if body.tags is None else tuple(body.tags)
        change = EntryChange(body.text, tags, body.metadata, body.if_version)
        return entry_json(await engine_of(request).update(scope_of(request, user_id), id, change))

    @app.delete("/v1/memory/entries/{id:path}")
    async def delete(request: Request, id: str, user_id: str) -> dict[str, Any]:
        await engine_of(request).delete(scope_of(request, user_id), id)
        return {"deleted": id}

    @app.get("/v1/memory/users")
    async def users(request: Request, limit: Limit = 100, cursor: str | None = None) -> dict[str, Any]:
        require_admin(request)
        found, following = await engine_of(request).users(tenant_of(request), limit=limit, cursor=cursor)
        return {"users": found, "next_cursor": following}

    @app.delete("/v1/memory/users/{user_id:path}")
    async def erase(request: Request, user_id: str) -> dict[str, Any]:
        return {"deleted": await engine_of(request).erase(scope_of(request, user_id))}

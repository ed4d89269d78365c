"""Runs of sleep: start, look at, undo. A run over all users is an admin's to start, to see and to undo."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Query, Request

from lightmem_engine.serving.access import engine_of, require_admin, scope_of, tenant_of
from lightmem_engine.serving.memory_schemas import SleepBody
from lightmem_engine.types import SleepBudget, SleepReport
from lightmem_engine.wire import report_json, run_json

Limit = Annotated[int, Query(ge=1, le=500)]


def add_sleep_routes(app: FastAPI) -> None:
    """`/v1/memory/sleep`."""

    @app.post("/v1/memory/sleep")
    async def start(request: Request, body: SleepBody) -> dict[str, Any]:
        user = _user(request, body.user_id)
        budget = SleepBudget(body.max_calls, body.max_tokens, body.max_seconds)
        return run_json(await engine_of(request).sleep(tenant_of(request), user, budget=budget, wait=body.wait))

    @app.get("/v1/memory/sleep")
    async def listed(request: Request, user_id: str | None = None, limit: Limit = 100) -> dict[str, Any]:
        user = _user(request, user_id)
        runs = await engine_of(request).sleep_runs(tenant_of(request), user, limit=limit)
        return {"runs": [run_json(run) for run in runs]}

    @app.get("/v1/memory/sleep/{run}")
    async def show(request: Request, run: str) -> dict[str, Any]:
        return report_json(await _report(request, run))

    @app.post("/v1/memory/sleep/{run}/rollback")
    async def rollback(request: Request, run: str) -> dict[str, Any]:
        await _report(request, run)
        return run_json(await engine_of(request).rollback(tenant_of(request), run))


def _user(request: Request, user: str | None) -> str | None:
    if user is None:
        require_admin(request)
        return None
    return scope_of(request, user).user


async def _report(request: Request, run: str) -> SleepReport:
    """The run, if whoever asks may know of it."""
    report = await engine_of(request).sleep_run(tenant_of(request), run)
    if report.run.user is None:
        require_admin(request)
    return report

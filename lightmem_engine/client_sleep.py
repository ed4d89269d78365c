"""The part of the client that is about sleep."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any
from urllib.parse import quote

from lightmem_engine.types import SleepBudget, SleepReport, SleepRun
from lightmem_engine.wire import report_of, run_of


class SleepClient:
    """Runs of sleep over HTTP. `_call` is the client's own."""

    async def _call(self, method: str, path: str, scope: str, *, params: Any = None, body: Any = None) -> Any:
        raise NotImplementedError

    async def sleep(
        self, tenant: str, user: str | None = None, *, budget: SleepBudget | None = None, wait: bool = True
    ) -> SleepRun:
        """See `Engine.sleep`."""
        limits = {} if budget is None else {name: limit for name, limit in asdict(budget).items() if limit is not None}
        body: dict[str, Any] = {"wait": wait} | limits
        return run_of(tenant, await self._call("POST", "/sleep", tenant, body=body | _user(user)))

    async def sleep_run(self, tenant: str, id: str) -> SleepReport:
        """See `Engine.sleep_run`."""
        return report_of(tenant, await self._call("GET", f"/sleep/{_quoted(id)}", tenant))

    async def sleep_runs(self, tenant: str, user: str | None = None, *, limit: int = 100) -> list[SleepRun]:
        """See `Engine.sleep_runs`."""
        answer = await self._call("GET", "/sleep", tenant, params={"limit": limit} | _user(user))
        return [run_of(tenant, run) for run in answer["runs"]]

    async def rollback(self, tenant: str, id: str) -> SleepRun:
        """See `Engine.rollback`."""
        return run_of(tenant, await self._call("POST", f"/sleep/{_quoted(id)}/rollback", tenant, body={}))


def _user(user: str | None) -> dict[str, Any]:
    return {} if user is None else {"user_id": user}


def _quoted(id: str) -> str:
    return quote(id, safe="").replace(".", "%2E")

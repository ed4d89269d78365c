"""What an engine does with what is stored: entries by hand, erasure, sleep, whole memories in and out."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING, Any

from lightmem_engine.names import check_name, check_scope
from lightmem_engine.types import (
    EntryChange,
    EntryPage,
    Kind,
    MemoryEntry,
    Scope,
    SleepBudget,
    SleepReport,
    SleepRun,
    State,
)

if TYPE_CHECKING:
    from lightmem_engine.pipeline.curator import Curator
    from lightmem_engine.pipeline.kept import Kept
    from lightmem_engine.pipeline.kv_keeper import KVKeeper
    from lightmem_engine.pipeline.porter import Porter
    from lightmem_engine.pipeline.sleeper import Sleeper


class Curated:
    """Checks names and passes on to the curator, the porter and the sleeper."""

    def __init__(self, curator: Curator, porter: Porter, sleeper: Sleeper, kept: Kept) -> None:
        self._kept = kept
        self._curator = curator
        self._porter = porter
        self._sleeper = sleeper
        self._num_erased = 0  # how often something was: who reads for long looks whether it changed

    async def get(self, scope: Scope, id: str) -> MemoryEntry:
        """An entry as it stands, or a pending message under the id of its hit."""
        check_scope(scope)
        return await self._curator.get(scope, id)

    async def entries(
        self,
        scope: Scope,
        *,
        limit: int = 100,
        cursor: str | None = None,
        state: State | None = None,
        kind: Kind | None = None,
        session: str | None = None,
    ) -> EntryPage:
        """A page of what is remembered: first what is pending, then entries in the order in which they were made."""
        check_scope(scope)
        return await self._curator.entries(scope, limit=limit, cursor=cursor, state=state, kind=kind, session=session)

    async def history(self, scope: Scope, id: str) -> list[MemoryEntry]:
        """All versions of an entry, oldest first."""
        check_scope(scope)
        return await self._curator.history(scope, id)

    async def update(self, scope: Scope, id: str, change: EntryChange) -> MemoryEntry:
        """Make a new version of an entry; raises `Conflict` for a pending message and a version that moved on."""
        check_scope(scope)
        return await self._curator.update(scope, id, change)

    async def delete(self, scope: Scope, id: str) -> None:
        """Delete an entry with its history and its words, see `stores.delete`."""
        check_scope(scope)
        self._num_erased += 1
        await self._curator.delete(scope, id)

    async def erase(self, scope: Scope) -> dict[str, int]:
        """Delete everything of a user, on disk and in memory; returns how many messages, entries and rows there
        were. What is in flight of the user is not written any more."""
        check_scope(scope)
        self._num_erased += 1
        return await self._curator.erase(scope)

    async def users(
        self, tenant: str, *, limit: int = 100, cursor: str | None = None
    ) -> tuple[list[dict[str, Any]], str | None]:
        """A page of a tenant's users by name, and where the next one begins."""
        return await self._curator.users(check_name("tenant", tenant), limit=limit, cursor=cursor)

    async def sleep(
        self, tenant: str, user: str | None = None, *, budget: SleepBudget | None = None, wait: bool = True
    ) -> SleepRun:
        """Start a run of sleep over a user, or over all users of a tenant; with `wait`, return it once it has ended."""
        check_name("tenant", tenant)
        if user is not None:
            check_name("user_id", user)
        return await self._sleeper.sleep(tenant, user, budget, wait=wait)

    async def sleep_run(self, tenant: str, id: str) -> SleepReport:
        """A run with its changes."""
        return await self._sleeper.report(check_name("tenant", tenant), id)

    async def sleep_runs(self, tenant: str, user: str | None = None, *, limit: int = 100) -> list[SleepRun]:
        """The newest runs of a tenant or of one user, the newest first."""
        return await self._sleeper.runs(check_name("tenant", tenant), user, limit)

    async def rollback(self, tenant: str, id: str) -> SleepRun:
        """Undo a run; raises `Conflict`, and does nothing, if what it touched has changed since."""
        return await self._sleeper.roll_back(check_name("tenant", tenant), id)

    def export(self, tenant: str, user: str | None = None) -> AsyncIterator[bytes]:
        """The lines of an export of one user, or of all users of a tenant, as they stood at one moment."""
        check_name("tenant", tenant)
        scope = tenant if user is None else Scope(user=check_name("user_id", user), tenant=tenant)
        return self._porter.export(scope)

    async def import_(self, tenant: str, chunks: AsyncIterable[bytes]) -> dict[str, int]:
        """Take in an export, see `pipeline.porter`. (`import` is a word of Python, hence the underscore.)"""
        return await self._porter.import_(check_name("tenant", tenant), chunks)

    @property
    def kv_keeper(self) -> KVKeeper | None:
        """Who looks after kept KV caches, if there are any."""
        return self._kept.keeper

    async def kv_stats(self) -> dict[str, Any]:
        """What is kept of KV caches, and what has been counted since the start."""
        return await self._kept.stats()

    async def kv_verify(self) -> dict[str, int]:
        """Read every chunk of the kept KV caches; damaged ones are removed. Counts: `ok`, `damaged`, `unreadable`."""
        return await self._kept.verify()

    async def kv_purge(self, tenant: str, user: str | None = None) -> int:
        """End and remove the kept KV caches of a user, or of a whole tenant; how many there were."""
        check_name("tenant", tenant)
        return await self._kept.purge(tenant, None if user is None else check_name("user_id", user))

"""`memory.db`: opens it, and answers the questions that need no transaction of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.stores import entries, log, schema
from lightmem_engine.stores.sqlite import Database, Work
from lightmem_engine.stores.stats import stats
from lightmem_engine.types import Hit, IndexDoc, Scope


class MemoryDB:
    """The memory of a data directory. Also the feed that indexes follow (`changes`, `hydrate`)."""

    def __init__(self, database: Database, failpoints: Failpoints | None = None) -> None:
        self._failpoints = failpoints or Failpoints()
        self.write = database.write
        self.read = database.read
        self.aclose = database.aclose

    @classmethod
    async def open(cls, path: Path, failpoints: Failpoints | None = None) -> MemoryDB:
        """Open or create the file and bring its schema up to date. Raises `StoreError`, `CorruptStore`."""
        created = not path.exists()
        database = Database(path, failpoints)
        if created:
            path.chmod(0o600)
        try:
            await database.prepare(schema.migrate)
            await database.write(log.forget_changes)
        except BaseException:
            await database.aclose()
            raise
        return cls(database, failpoints)

    async def append(
        self, scope: Scope, session: str, normalize: log.Normalize, now: datetime
    ) -> tuple[list[str], bool]:
        """Log messages durably; see `log.append`."""
        return await self.write(lambda connection: log.append(connection, scope, session, normalize, now))

    async def changes(self, scope: Scope, since_seq: int) -> tuple[list[IndexDoc], int]:
        """What an index that stands at `since_seq` must apply; see `entries.changes`."""
        found: tuple[list[IndexDoc], int] = await self.read(
            _snapshot(lambda connection: entries.changes(connection, scope, since_seq))
        )
        if found[0]:
            self._failpoints.reach("index.apply")
        return found

    async def hydrate(self, scope: Scope, refs: Iterable[str]) -> dict[str, Hit]:
        """The stored truth behind index references; see `entries.hydrate`."""
        return await self.read(_snapshot(lambda connection: entries.hydrate(connection, scope, refs)))

    async def contents(self, scope: Scope, ids: Iterable[str]) -> dict[str, str]:
        """The original texts of messages, by message id; unknown ids are absent."""
        return await self.read(lambda connection: log.contents(connection, scope, ids))

    async def stats(self, scope: Scope | None) -> dict[str, Any]:
        """Counts of one user, or of everybody."""
        return await self.read(_snapshot(lambda connection: stats(connection, scope)))


def _snapshot(work: Work[Any]) -> Work[Any]:
    """All statements of `work` see the same commit."""

    def run(connection: sqlite3.Connection) -> Any:
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.execute("COMMIT")

    return run

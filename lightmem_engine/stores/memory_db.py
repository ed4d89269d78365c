"""`memory.db`: opens it, and answers the questions that need no transaction of their own."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from lightmem_engine.errors import ConfigError
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.stores import edges, entries, log, reembed, schema, scrub, work
from lightmem_engine.stores.chats import Chats
from lightmem_engine.stores.sqlite import Database, Work
from lightmem_engine.stores.stats import stats
from lightmem_engine.types import Hit, IndexDoc, Scope


class MemoryDB:
    """The memory of a data directory. Also the feed that indexes follow (`changes`, `hydrate`)."""

    def __init__(self, database: Database, failpoints: Failpoints | None = None, *, share_salt: bool = False) -> None:
        self._failpoints = failpoints or Failpoints()
        self._database = database
        self.path = database.path
        self.write = database.write
        self.write_alone = database.write_alone
        self.read = database.read
        self.follow = database.follow
        self.aclose = database.aclose
        self.chats = Chats(database.write, lambda work: database.read(snapshot(work)), share_salt=share_salt)

    @property
    def is_sound(self) -> bool:
        """False once the file turned out to be damaged; then nothing more is stored."""
        return self._database.is_sound

    @classmethod
    async def open(cls, path: Path, failpoints: Failpoints | None = None, *, share_salt: bool = False) -> MemoryDB:
        """Open or create the file and bring its schema up to date. Raises `StoreError`, `CorruptStore`.

        share_salt: a new user gets the salt of their tenant instead of one of their own.
        """
        created = not path.exists()
        database = Database(path, failpoints)
        if created:
            path.chmod(0o600)
        try:
            await database.prepare(schema.migrate)
            await database.write(edges.write_missing)
            await database.write(log.forget_changes)
            if await database.read(scrub.is_due):
                await scrub.scrub(database.write_alone)
        except BaseException:
            await database.aclose()
            raise
        return cls(database, failpoints, share_salt=share_salt)

    async def bind_embedder(self, name: str) -> None:
        """Note in which vector space this memory lives; `ConfigError` if it already lives in another."""

        def bind(connection: sqlite3.Connection) -> str:
            reembed.check_finished(connection)
            connection.execute("INSERT OR IGNORE INTO meta VALUES ('embed_model', ?)", (name,))
            return str(connection.execute("SELECT value FROM meta WHERE key = 'embed_model'").fetchone()[0])

        bound = await self.write(bind)
        if bound != name:
            raise ConfigError(
                f"this memory was embedded by {bound}, but the configured embedder is {name}, whose vectors cannot be "
                "compared with it; set embedder.model back, or run `lightmem-engine reindex` to embed everything anew"
            )

    async def append(
        self, scope: Scope, parts: Iterable[tuple[str, log.Normalize]], now: datetime
    ) -> tuple[list[str], list[str]]:
        """Log the messages of one call durably, all or none: per part a session and what makes its messages drafts.

        Returns the ids of all messages and the sessions that have new ones; see `log.append`.
        """

        def append(connection: sqlite3.Connection) -> tuple[list[str], list[str]]:
            ids, sessions = [], []
            for session, normalize in parts:
                found, fresh = log.append(connection, scope, session, normalize, now)
                ids += found
                sessions += [session] if fresh else []
            return ids, sessions

        return await self.write(append)

    async def changes(self, scope: Scope, since_seq: int) -> tuple[list[IndexDoc], int]:
        """What an index that stands at `since_seq` must apply; see `entries.changes`."""
        found: tuple[list[IndexDoc], int] = await self.read(
            snapshot(lambda connection: entries.changes(connection, scope, since_seq))
        )
        if found[0]:
            self._failpoints.reach("index.apply")
        return found

    async def hydrate(self, scope: Scope, refs: Iterable[str]) -> dict[str, Hit]:
        """The stored truth behind index references; see `entries.hydrate`."""
        return await self.read(snapshot(lambda connection: entries.hydrate(connection, scope, refs)))

    async def segments(self, scope: Scope, session: str) -> list[list[str]]:
        """The message ids of each closed segment of a session, in order."""
        return await self.read(lambda connection: work.segment_messages(connection, scope, session))

    async def contents(self, scope: Scope, ids: Iterable[str]) -> dict[str, str]:
        """The original texts of messages, by message id; unknown ids are absent."""
        return await self.read(lambda connection: log.contents(connection, scope, ids))

    async def stats(self, scope: Scope | None) -> dict[str, Any]:
        """Counts of one user, or of everybody."""
        return await self.read(snapshot(lambda connection: stats(connection, scope)))


def snapshot(work: Work[Any]) -> Work[Any]:
    """All statements of `work` see the same commit."""

    def run(connection: sqlite3.Connection) -> Any:
        connection.execute("BEGIN")
        try:
            return work(connection)
        finally:
            connection.execute("COMMIT")

    return run

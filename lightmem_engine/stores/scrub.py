"""Deleted bytes leave the disk.

`secure_delete` overwrites deleted rows, but not the copies that stay in the slack of a page when its rows move to a
neighbour. So an erasure ends with `VACUUM`, which writes every page anew, and with an empty write-ahead log. What has
been deleted but not scrubbed yet is noted in the database, so that a crash in between is made up for at the next start.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any

from lightmem_engine.errors import Overloaded
from lightmem_engine.stores.sqlite import TIMEOUT_SECONDS

_BUSY_MS = 200
PATIENCE_SECONDS = 60.0

WriteAlone = Callable[[Callable[[sqlite3.Connection], Any]], Awaitable[Any]]


def note(connection: sqlite3.Connection) -> None:
    """Say, in the transaction that deletes, that a scrub is due."""
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('scrub', ?)", (uuid.uuid4().hex,))


def is_due(connection: sqlite3.Connection) -> bool:
    """Whether something was deleted that has not been scrubbed."""
    return _noted(connection) is not None


async def scrub(write_alone: WriteAlone) -> None:
    """Rewrite the file and empty the write-ahead log.

    Raises `Overloaded` if a reader holds on to the old pages for `PATIENCE_SECONDS`: then they are still on disk, and
    the next scrub or the next start removes them. `StoreError` if the disk has no room for a second copy.
    """
    noted = await write_alone(_vacuum)
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not await write_alone(lambda connection: _truncate(connection, noted)):
        if time.monotonic() > deadline:
            raise Overloaded("deleted, but a reader still holds old pages of the write-ahead log; ask again")
        await asyncio.sleep(0.05)


def _noted(connection: sqlite3.Connection) -> str | None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'scrub'").fetchone()
    return None if row is None else str(row[0])


def _vacuum(connection: sqlite3.Connection) -> str | None:
    noted = _noted(connection)
    connection.execute("VACUUM")
    return noted


def _truncate(connection: sqlite3.Connection, noted: str | None) -> bool:
    """True once the log was empty. The note that the file was rewritten for goes last: after a crash there is one scrub
    too many, never one too few."""
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    try:
        if connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            return False
        connection.execute("DELETE FROM meta WHERE key = 'scrub' AND value = ?", (noted,))
        return True
    finally:
        connection.execute(f"PRAGMA busy_timeout = {TIMEOUT_SECONDS * 1000}")

"""Links between imported entries: what was folded into what, and what a summary tells of."""

from __future__ import annotations

import sqlite3

from lightmem_engine.stores.records import UserRecords
from lightmem_engine.types import Scope

_TOLD = ("summary", "recalled")


def restore(connection: sqlite3.Connection, scope: Scope, records: UserRecords) -> None:
    """Store what is not there yet. What a summary tells of is taken to be as it was when that was written."""
    connection.executemany(
        "INSERT OR IGNORE INTO entry_link VALUES (?, ?, ?, ?)",
        [
            tuple(row[name] for name in ("entry", "version", "other", "kind"))
            for row in records.links
            if row["kind"] not in _TOLD
        ],
    )
    connection.executemany(
        "INSERT OR IGNORE INTO summary_of VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (
                *(row["entry"], row["version"], scope.tenant, scope.user),
                *(row["other"], records.versions.get(row["other"], 1), row["kind"] == "summary"),
            )
            for row in records.links
            if row["kind"] in _TOLD
        ],
    )

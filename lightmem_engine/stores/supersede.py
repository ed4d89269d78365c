"""Messages that a later branch of their conversation has replaced: kept in the log, recalled no more."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import datetime

from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import select_in, to_ms
from lightmem_engine.types import Scope


def supersede(connection: sqlite3.Connection, scope: Scope, seqs: Iterable[int], now: datetime) -> None:
    """Take messages of the user out of recall, with the entries that rest on nothing else."""
    seqs = list(seqs)
    connection.executemany(
        "UPDATE message SET superseded_ms = ? WHERE seq = ? AND superseded_ms IS NULL",
        [(to_ms(now), seq) for seq in seqs],
    )
    # Out of the segment that is still open; what is in a closed one is passed over when that is extracted.
    connection.executemany("DELETE FROM sensed WHERE message = ? AND segment IS NULL", [(seq,) for seq in seqs])
    record_changes(connection, scope, "message", seqs)
    withdraw_entries(connection, scope, seqs, now)


def withdraw_entries(connection: sqlite3.Connection, scope: Scope, seqs: Iterable[int], now: datetime) -> None:
    """Supersede the active entries all of whose sources are superseded, among those that cite these messages."""
    sql = (
        "SELECT DISTINCT e.id, e.version FROM entry e JOIN entry_source s ON s.entry = e.id AND s.version = e.version "
        "WHERE e.tenant = ? AND e.user = ? AND e.state = 'active' AND s.message IN ({in}) AND NOT EXISTS ("
        "SELECT 1 FROM entry_source o JOIN message m ON m.seq = o.message "
        "WHERE o.entry = e.id AND o.version = e.version AND m.superseded_ms IS NULL)"
    )
    rows = select_in(connection, sql, seqs, scope.tenant, scope.user)
    connection.executemany(
        "UPDATE entry SET state = 'superseded', superseded_at = ? WHERE id = ? AND version = ?",
        [(to_ms(now), id, version) for id, version in rows],
    )
    record_changes(connection, scope, "entry", [id for id, _ in rows])


def superseded(connection: sqlite3.Connection, seqs: Iterable[int]) -> set[int]:
    """Which of these messages are superseded."""
    sql = "SELECT seq FROM message WHERE superseded_ms IS NOT NULL AND seq IN ({in})"
    return {seq for (seq,) in select_in(connection, sql, seqs)}

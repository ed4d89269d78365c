"""Summaries as they are stored: entries of a kind of their own, with the entries each of them tells of."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Sequence
from datetime import datetime

from lightmem_engine.stores import runs, sleep_notes, work
from lightmem_engine.stores.consolidate import SLEEP, Spent
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import offset_of, select_in, to_blob, to_ms
from lightmem_engine.stores.versions import advance
from lightmem_engine.types import Scope, SleepNote, Vector

SUMMARISED, OUTDATED = "summarise", "retire"
_CURRENT = "e.state = 'active' AND e.version = (SELECT max(version) FROM entry l WHERE l.id = e.id)"


def covered(connection: sqlite3.Connection, scope: Scope) -> set[str]:
    """Entries that were in the window of a summary that still stands."""
    sql = (
        "SELECT k.member FROM summary_of k JOIN entry e ON e.id = k.entry AND e.version = k.version "
        f"WHERE k.tenant = ? AND k.user = ? AND k.is_own AND {_CURRENT}"
    )
    return {id for (id,) in connection.execute(sql, (scope.tenant, scope.user))}


def telling_of(connection: sqlite3.Connection, id: str) -> list[str]:
    """Summaries, of any state, that an entry went into."""
    rows = connection.execute("SELECT DISTINCT entry FROM summary_of WHERE member = ?", (id,))
    return [found for (found,) in rows.fetchall()]


def retire(connection: sqlite3.Connection, scope: Scope, run: str, now: datetime) -> int:
    """Supersede summaries of which an entry has been superseded or reads otherwise since; returns how many."""
    sql = (
        "SELECT DISTINCT e.id, e.version FROM summary_of k JOIN entry e ON e.id = k.entry AND e.version = k.version "
        "JOIN entry m ON m.id = k.member AND m.version = (SELECT max(version) FROM entry l WHERE l.id = m.id) "
        "JOIN entry s ON s.id = k.member AND s.version = k.member_version "
        f"WHERE k.tenant = ? AND k.user = ? AND {_CURRENT} AND (m.state IN ('superseded', 'expired') "
        "OR m.text <> s.text)"
    )
    if runs.state_of(connection, run) != "running":
        return 0
    rows = connection.execute(sql, (scope.tenant, scope.user)).fetchall()
    for id, version in rows:
        advance(connection, id, version, run, "superseded", now)
        runs.note_change(
            connection, run, scope, OUTDATED, id, version, version + 1, "superseded", None, "it tells of what changed"
        )
    runs.count(connection, run, applied=len(rows))
    record_changes(connection, scope, "entry", [id for id, _ in rows])
    return len(rows)


def store(
    connection: sqlite3.Connection,
    scope: Scope,
    run: str,
    text: str | None,
    vector: Vector | None,
    own: Sequence[SleepNote],
    cited: Sequence[SleepNote],
    spent: Spent,
    embed_model: str,
    now: datetime,
) -> bool:
    """Store a summary and count what it took; with no text, only count. Returns whether the run is still there.

    own: the window.   cited: what the summary rests on. If one of these has changed since it was read, nothing is
    stored; the window comes up again.
    """
    if runs.state_of(connection, run) != "running":
        return False
    notes = {note.id: note for note in (*own, *cited)}
    sql = f"SELECT e.id, e.version FROM entry e WHERE e.tenant = ? AND e.user = ? AND {_CURRENT} AND e.id IN ({{in}})"
    now_there = dict(select_in(connection, sql, notes, scope.tenant, scope.user))
    stands = all(now_there.get(id) == note.version for id, note in notes.items())
    applied = 0
    if text is not None and vector is not None and stands:
        id = _insert(connection, scope, run, text, own, cited, now)
        connection.execute("INSERT INTO vector VALUES (?, 1, ?, ?)", (id, embed_model, to_blob(vector)))
        runs.note_change(connection, run, scope, SUMMARISED, id, None, 1, "active", None, "tells of what happened")
        record_changes(connection, scope, "entry", [id])
        applied = 1
    if spent.calls and now_there.keys() == notes.keys():
        work.add_usage(connection, scope, SLEEP, spent.calls, spent.usage, spent.seconds)
    runs.count(
        connection,
        run,
        calls=spent.calls,
        prompt_tokens=spent.usage.prompt_tokens,
        completion_tokens=spent.usage.completion_tokens,
        seconds=spent.seconds,
        applied=applied,
        stale=int(text is not None and not stands),
        undecided=spent.undecided,
    )
    return True


def _insert(
    connection: sqlite3.Connection,
    scope: Scope,
    run: str,
    text: str,
    own: Sequence[SleepNote],
    cited: Sequence[SleepNote],
    now: datetime,
) -> str:
    id = uuid.uuid4().hex
    last = own[-1].event_time
    connection.execute(
        "INSERT INTO entry SELECT ?, 1, tenant, user, 'summary', ?, ?, ?, NULL, ?, NULL, ?, 'active', NULL, session, "
        "'system', 'system', '[]', '{}' FROM entry WHERE id = ? AND version = ?",
        (id, text, to_ms(last), offset_of(last), to_ms(now), run, own[-1].id, own[-1].version),
    )
    connection.executemany(
        'INSERT OR IGNORE INTO entry_source SELECT ?, 1, message, start, "end" FROM entry_source '
        "WHERE entry = ? AND version = ?",
        [(id, note.id, note.version) for note in cited],
    )
    members = {note.id: (note, True) for note in own} | {note.id: (note, False) for note in cited if note not in own}
    connection.executemany(
        "INSERT INTO summary_of VALUES (?, 1, ?, ?, ?, ?, ?)",
        [(id, scope.tenant, scope.user, member, note.version, is_own) for member, (note, is_own) in members.items()],
    )
    sleep_notes.mark_summary_seen(connection, scope, id)
    return id

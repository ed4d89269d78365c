"""The raw log: every message once, in the order of its arrival, and what has changed since when."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

from lightmem_engine.errors import Conflict
from lightmem_engine.stores.rows import TURN_COLUMNS, from_ms, offset_of, select_in, to_json, to_ms, turn_of
from lightmem_engine.types import Scope, Turn, TurnDraft

Normalize = Callable[[datetime | None], list[TurnDraft]]


def append(
    connection: sqlite3.Connection, scope: Scope, session: str, normalize: Normalize, now: datetime
) -> tuple[list[str], bool]:
    """Log the messages of one call; returns their ids and whether any was new.

    `normalize` gets the session's last event time and returns the drafts, so that order within a session is decided
    under the write lock. A known id with the same content is a no-op; with other content, `Conflict` and nothing of
    the call is stored.
    """
    row = connection.execute(
        "SELECT last_event_ms FROM session WHERE tenant = ? AND user = ? AND session = ?",
        (scope.tenant, scope.user, session),
    ).fetchone()
    drafts = normalize(from_ms(row[0]) if row else None)
    added = []
    last_seq = 0
    for draft in drafts:
        if not _known(connection, scope, draft):
            last_seq = _insert(connection, scope, session, draft, now)
            added.append(draft)
    if added:
        last_event_ms = max(to_ms(draft.event_time) for draft in added)
        connection.execute(
            """INSERT INTO session (tenant, user, session, last_seq, last_event_ms, last_recorded_ms)
            VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET last_seq = excluded.last_seq,
            last_event_ms = max(last_event_ms, excluded.last_event_ms), last_recorded_ms = excluded.last_recorded_ms""",
            (scope.tenant, scope.user, session, last_seq, last_event_ms, to_ms(now)),
        )
    return [draft.id for draft in drafts], bool(added)


def record_changes(connection: sqlite3.Connection, scope: Scope, what: str, refs: Iterable[Any]) -> None:
    """Tell derived indexes that these messages or entries are no longer what they were."""
    connection.executemany(
        "INSERT INTO change (tenant, user, what, ref) VALUES (?, ?, ?, ?)",
        [(scope.tenant, scope.user, what, ref) for ref in refs],
    )


def forget_changes(connection: sqlite3.Connection) -> None:
    """Drop the change history; right when no index is alive, that is, before the first search."""
    connection.execute("DELETE FROM change")


def turns_after(connection: sqlite3.Connection, scope: Scope, seq: int, limit: int) -> list[Turn]:
    """The user's next messages in the log."""
    rows = connection.execute(
        f"SELECT {TURN_COLUMNS} FROM message WHERE tenant = ? AND user = ? AND seq > ? ORDER BY seq LIMIT ?",
        (scope.tenant, scope.user, seq, limit),
    )
    return [turn_of(row) for row in rows]


def texts_before(connection: sqlite3.Connection, scope: Scope, seq: int, limit: int) -> list[str]:
    """The texts of the user's last `limit` spoken messages before `seq`, oldest first; superseded ones left out."""
    rows = connection.execute(
        """SELECT content FROM message WHERE tenant = ? AND user = ? AND seq < ? AND role IN ('user', 'assistant')
        AND superseded_ms IS NULL ORDER BY seq DESC LIMIT ?""",
        (scope.tenant, scope.user, seq, limit),
    )
    return [row[0] for row in rows][::-1]


def turns_before(connection: sqlite3.Connection, scope: Scope, session: str, seq: int, limit: int) -> list[Turn]:
    """The last `limit` spoken messages of a session before `seq`, oldest first; superseded ones left out."""
    rows = connection.execute(
        f"""SELECT {TURN_COLUMNS} FROM message WHERE tenant = ? AND user = ? AND session = ? AND seq < ?
        AND role IN ('user', 'assistant') AND superseded_ms IS NULL ORDER BY seq DESC LIMIT ?""",
        (scope.tenant, scope.user, session, seq, limit),
    )
    return [turn_of(row) for row in rows][::-1]


def contents(connection: sqlite3.Connection, scope: Scope, ids: Iterable[str]) -> dict[str, str]:
    """The original texts of the user's messages among `ids`."""
    sql = "SELECT id, content FROM message WHERE tenant = ? AND user = ? AND id IN ({in})"
    return dict(select_in(connection, sql, ids, scope.tenant, scope.user))


def last_seq(connection: sqlite3.Connection, scope: Scope) -> int:
    """The user's newest place in the log; 0 if there is none."""
    row = connection.execute(
        "SELECT max(seq) FROM message WHERE tenant = ? AND user = ?", (scope.tenant, scope.user)
    ).fetchone()
    return int(row[0] or 0)


def _known(connection: sqlite3.Connection, scope: Scope, draft: TurnDraft) -> bool:
    row = connection.execute(
        "SELECT digest FROM message WHERE tenant = ? AND user = ? AND id = ?", (scope.tenant, scope.user, draft.id)
    ).fetchone()
    if row is not None and row[0] != _digest(draft):
        raise Conflict(f"message {draft.id!r} is stored with other content")
    return row is not None


def _insert(connection: sqlite3.Connection, scope: Scope, session: str, draft: TurnDraft, now: datetime) -> int:
    values: Sequence[Any] = (
        scope.tenant,
        scope.user,
        draft.id,
        session,
        draft.role,
        draft.speaker,
        draft.text,
        to_ms(draft.event_time),
        offset_of(draft.event_time),
        to_ms(now),
        to_json(dict(draft.metadata)),
        _digest(draft),
    )
    cursor = connection.execute(
        """INSERT INTO message (tenant, user, id, session, role, speaker, content, event_ms, offset_s, recorded_ms,
        metadata, digest) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        values,
    )
    seq = cursor.lastrowid
    assert seq is not None
    record_changes(connection, scope, "message", [seq])
    return seq


def _digest(draft: TurnDraft) -> bytes:
    """What makes two messages of one id the same. Event time is left out, a retry may come without one, and so is the
    session, which may follow from the time."""
    return hashlib.sha256("\0".join((draft.role, draft.speaker, draft.text)).encode()).digest()

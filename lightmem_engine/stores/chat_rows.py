"""Between rows and nouns of conversations: threads, links, what was injected, blocks."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any

from lightmem_engine.stores.branches import ROOT, Link, Path
from lightmem_engine.stores.rows import select_in, to_json
from lightmem_engine.types import Block, Injection, Note, Scope

_LINK = (
    "l.id, l.digest, l.parent, l.item, l.role, l.message, l.injection, l.turn, "
    "CASE WHEN l.is_partial THEN (SELECT m.content FROM message m WHERE m.seq = l.message) END"
)
_MAX_PATHS = 32  # threads with the same opening that are looked at, the most recent of them


def load_path(connection: sqlite3.Connection, scope: Scope, thread: int) -> Path | None:
    """The present branch of one of the user's threads; None if there is no such thread."""
    row = connection.execute(
        "SELECT session FROM chat_thread WHERE id = ? AND tenant = ? AND user = ?", (thread, scope.tenant, scope.user)
    ).fetchone()
    if row is None:
        return None
    rows = connection.execute(
        f"SELECT {_LINK} FROM chat_link l WHERE l.thread = ? AND l.superseded_ms IS NULL ORDER BY l.depth", (thread,)
    )
    return Path(row[0], thread, tuple(Link(*link) for link in rows))


def newest_thread(connection: sqlite3.Connection, scope: Scope, session: str) -> Path | None:
    """The session's last thread that holds anything."""
    row = connection.execute(
        "SELECT max(id) FROM chat_thread WHERE tenant = ? AND user = ? AND session = ? AND tip IS NOT NULL",
        (scope.tenant, scope.user, session),
    ).fetchone()
    return None if row[0] is None else load_path(connection, scope, row[0])


def threads_from(connection: sqlite3.Connection, scope: Scope, session: str, root: bytes) -> list[Path]:
    """The session's threads that begin with this digest, the most recent first."""
    rows = connection.execute(
        "SELECT id FROM chat_thread WHERE tenant = ? AND user = ? AND session = ? AND root = ? "
        "ORDER BY id DESC LIMIT ?",
        (scope.tenant, scope.user, session, root, _MAX_PATHS),
    )
    return _paths(connection, scope, (id for (id,) in rows.fetchall()))


def threads_to(connection: sqlite3.Connection, scope: Scope, digests: Sequence[bytes]) -> list[Path]:
    """Threads of sessions that the server has named and that end in one of these digests, or one link behind it; of
    each kind the most recent."""
    where = (
        "t.tenant = ? AND t.user = ? AND NOT EXISTS (SELECT 1 FROM chat_session s WHERE s.tenant = t.tenant "
        "AND s.user = t.user AND s.session = t.session AND s.is_named)"
    )
    sql = f"SELECT max(t.id) FROM chat_thread t WHERE {where} AND t.tip IN ({{in}}) GROUP BY t.tip"
    ids = {id for (id,) in select_in(connection, sql, digests, scope.tenant, scope.user)}
    sql = f"SELECT max(t.id) FROM chat_thread t WHERE {where} AND t.before IN ({{in}}) GROUP BY t.before"
    ids |= {id for (id,) in select_in(connection, sql, digests, scope.tenant, scope.user)}
    return _paths(connection, scope, sorted(ids, reverse=True)[:_MAX_PATHS])


def add_link(
    connection: sqlite3.Connection,
    thread: int,
    link: tuple[int, bytes, bytes, bytes, str],
    message: int | None,
    turn: int,
    *,
    is_partial: bool,
) -> int:
    """Append a link (depth, digest, parent, item, role); returns its id."""
    cursor = connection.execute(
        "INSERT INTO chat_link (thread, depth, digest, parent, item, role, message, turn, is_partial) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (thread, *link, message, turn, is_partial),
    )
    assert cursor.lastrowid is not None
    return cursor.lastrowid


def mark_ends(connection: sqlite3.Connection, thread: int) -> None:
    """Bring a thread's `root`, `tip` and `before` up to date with its links."""
    rows = connection.execute(
        "SELECT digest, parent FROM chat_link WHERE thread = ? AND superseded_ms IS NULL ORDER BY depth", (thread,)
    ).fetchall()
    root, tip, before = (rows[0][0], rows[-1][0], rows[-1][1] or None) if rows else (None, None, None)
    connection.execute("UPDATE chat_thread SET root = ?, tip = ?, before = ? WHERE id = ?", (root, tip, before, thread))


def depth_after(path: Path | None) -> tuple[int, bytes]:
    """The depth and the parent digest of the link that would come next."""
    return (len(path.links), path.links[-1].digest) if path and path.links else (0, ROOT)


def injection_json(injection: Injection) -> str:
    """What `injection_of` reads."""
    today = injection.today.isoformat() if injection.today else None
    return to_json({"today": today, "notes": [[note.id, note.line] for note in injection.notes]})


def injection_of(text: str) -> Injection:
    """The injection of `injection_json`."""
    data = json.loads(text)
    return Injection(_notes(data["notes"]), date.fromisoformat(data["today"]) if data["today"] else None)


def block_json(block: Block) -> str:
    """What `block_of` reads."""
    notes = [[note.id, note.line] for note in block.notes]
    return to_json({"epoch": block.epoch, "seen_ms": block.seen_ms, "notes": notes})


def block_of(text: str) -> Block:
    """The block of `block_json`."""
    data = json.loads(text)
    return Block(_notes(data["notes"]), data["epoch"], data["seen_ms"])


def _notes(rows: Iterable[Any]) -> tuple[Note, ...]:
    return tuple(Note(id, line) for id, line in rows)


def _paths(connection: sqlite3.Connection, scope: Scope, threads: Iterable[int]) -> list[Path]:
    paths = (load_path(connection, scope, thread) for thread in threads)
    return [path for path in paths if path is not None]

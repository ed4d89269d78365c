"""A memory as lines of JSON, and back: everything but vectors and counters, which are made anew.

The first line is a header. Then, user by user, what the tables hold: messages in the order of the log, sessions,
segments, what was sensed, every version of every entry, what was folded into what, parked items, how far the sensory
stage has come. Messages are named by their ids and segments by their number within the user, so that the lines say the
same in any directory. Runs of sleep and what they have looked at stay behind: what is imported is looked at anew, and
was changed by a run that cannot be rolled back there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from lightmem_engine.stores.reembed import bound_to
from lightmem_engine.stores.rows import from_ms
from lightmem_engine.types import Scope

FORMAT = "lightmem-export"
VERSION = 1

_MESSAGE = "id, session, role, speaker, content, event_ms, offset_s, recorded_ms, metadata, digest, superseded_ms"
_ENTRY = (
    "id, version, kind, text, valid_from, offset_s, valid_to, recorded_at, superseded_at, run_id, state, segment, "
    "session, speaker, role, tags, metadata"
)
_USER = "tenant = ? AND user = ?"


def header(connection: sqlite3.Connection) -> dict[str, Any]:
    """The first line."""
    return {"type": "header", "format": FORMAT, "version": VERSION, "embed_model": bound_to(connection)}


def users_of(connection: sqlite3.Connection, tenant: str) -> list[str]:
    """Everybody of whom a tenant holds something, by name."""
    rows = connection.execute(
        "SELECT user FROM message WHERE tenant = ? UNION SELECT user FROM entry WHERE tenant = ? ORDER BY 1",
        (tenant, tenant),
    )
    return [user for (user,) in rows]


def user_lines(connection: sqlite3.Connection, scope: Scope) -> Iterator[dict[str, Any]]:
    """Everything of one user, one row at a time; the connection must be in a read transaction."""
    numbers = {
        id: number
        for number, (id,) in enumerate(
            connection.execute(f"SELECT id FROM segment WHERE {_USER} ORDER BY id", (scope.tenant, scope.user)), 1
        )
    }
    yield from _messages(connection, scope)
    yield from _sessions(connection, scope)
    yield from _segments(connection, scope, numbers)
    yield from _sensed(connection, scope, numbers)
    yield from _entries(connection, scope, numbers)
    yield from _links(connection, scope)
    yield from _parked(connection, scope, numbers)
    yield from _cursor(connection, scope)


def _messages(connection: sqlite3.Connection, scope: Scope) -> Iterator[dict[str, Any]]:
    rows = connection.execute(f"SELECT {_MESSAGE} FROM message WHERE {_USER} ORDER BY seq", (scope.tenant, scope.user))
    for id, session, role, speaker, content, event_ms, offset_s, recorded_ms, metadata, digest, superseded_ms in rows:
        yield {
            "type": "message",
            "user": scope.user,
            "id": id,
            "session": session,
            "role": role,
            "speaker": speaker,
            "content": content,
            "event_time": from_ms(event_ms, offset_s).isoformat(),
            "recorded_at": from_ms(recorded_ms).isoformat(),
            "metadata": json.loads(metadata),
            "digest": digest.hex(),
            "superseded_at": _iso(superseded_ms),
        }


def _sessions(connection: sqlite3.Connection, scope: Scope) -> Iterator[dict[str, Any]]:
    """`decided`: how many of the session's messages have the gap before them settled."""
    rows = connection.execute(
        "SELECT s.session, (SELECT count(*) FROM message m WHERE m.tenant = s.tenant AND m.user = s.user "
        "AND m.session = s.session AND m.seq < s.decided_seq) FROM session s WHERE s.tenant = ? AND s.user = ? "
        "AND EXISTS (SELECT 1 FROM message m WHERE m.tenant = s.tenant AND m.user = s.user AND m.session = s.session) "
        "ORDER BY s.session",
        (scope.tenant, scope.user),
    )
    for session, decided in rows:
        yield {"type": "session", "user": scope.user, "session": session, "decided": decided}


def _segments(connection: sqlite3.Connection, scope: Scope, numbers: dict[int, int]) -> Iterator[dict[str, Any]]:
    rows = connection.execute(
        f"SELECT id, session, num_tokens, state, closed_ms FROM segment WHERE {_USER} ORDER BY id",
        (scope.tenant, scope.user),
    )
    for id, session, num_tokens, state, closed_ms in rows:
        yield {
            "type": "segment",
            "user": scope.user,
            "segment": numbers[id],
            "session": session,
            "num_tokens": num_tokens,
            "state": state,
            "closed_at": from_ms(closed_ms).isoformat(),
        }


def _sensed(connection: sqlite3.Connection, scope: Scope, numbers: dict[int, int]) -> Iterator[dict[str, Any]]:
    rows = connection.execute(
        "SELECT s.message, m.id, s.segment, s.attention, s.mass, s.num_tokens FROM sensed s "
        "JOIN message m ON m.seq = s.message WHERE s.tenant = ? AND s.user = ? ORDER BY s.message",
        (scope.tenant, scope.user),
    )
    for seq, id, segment, attention, mass, num_tokens in rows:
        pieces = connection.execute(
            'SELECT start, "end", compressed FROM piece WHERE message = ? ORDER BY start', (seq,)
        )
        yield {
            "type": "sensed",
            "user": scope.user,
            "message": id,
            "segment": None if segment is None else numbers[segment],
            "attention": attention,
            "mass": mass,
            "num_tokens": num_tokens,
            "pieces": [{"start": start, "end": end, "text": text} for start, end, text in pieces],
        }


def _entries(connection: sqlite3.Connection, scope: Scope, numbers: dict[int, int]) -> Iterator[dict[str, Any]]:
    rows = connection.execute(
        f"SELECT {_ENTRY} FROM entry WHERE {_USER} ORDER BY id, version", (scope.tenant, scope.user)
    )
    for row in rows:
        sources = connection.execute(
            'SELECT m.id, s.start, s."end" FROM entry_source s JOIN message m ON m.seq = s.message '
            "WHERE s.entry = ? AND s.version = ? ORDER BY m.seq, s.start",
            (row[0], row[1]),
        )
        yield {
            "type": "entry",
            "user": scope.user,
            "id": row[0],
            "version": row[1],
            "kind": row[2],
            "text": row[3],
            "event_time": from_ms(row[4], row[5]).isoformat(),
            "valid_to": _iso(row[6]),
            "recorded_at": from_ms(row[7]).isoformat(),
            "superseded_at": _iso(row[8]),
            "run_id": row[9],
            "state": row[10],
            "segment": numbers.get(row[11]),
            "session": row[12],
            "speaker": row[13],
            "role": row[14],
            "tags": json.loads(row[15]),
            "metadata": json.loads(row[16]),
            "sources": [{"message": id, "start": start, "end": end} for id, start, end in sources],
        }


def _links(connection: sqlite3.Connection, scope: Scope) -> Iterator[dict[str, Any]]:
    rows = connection.execute(
        f"SELECT k.entry, k.version, k.other, k.kind FROM entry e JOIN entry_link k ON k.entry = e.id "
        f"AND k.version = e.version WHERE {_USER} UNION ALL SELECT entry, version, member, "
        f"CASE WHEN is_own THEN 'summary' ELSE 'recalled' END FROM summary_of WHERE {_USER} ORDER BY 1, 2, 3",
        (scope.tenant, scope.user) * 2,
    )
    for entry, version, other, kind in rows:
        yield {"type": "link", "user": scope.user, "entry": entry, "version": version, "other": other, "kind": kind}


def _parked(connection: sqlite3.Connection, scope: Scope, numbers: dict[int, int]) -> Iterator[dict[str, Any]]:
    rows = connection.execute(
        "SELECT p.stage, p.item, m.id, p.error, p.attempts, p.parked_ms FROM parked p "
        "LEFT JOIN message m ON p.stage = 'sense' AND m.seq = p.item WHERE p.tenant = ? AND p.user = ? "
        "ORDER BY p.stage, p.item",
        (scope.tenant, scope.user),
    )
    for stage, item, message, error, attempts, parked_ms in rows:
        yield {
            "type": "parked",
            "user": scope.user,
            "stage": stage,
            "message": message,
            "segment": numbers.get(item) if stage == "extract" else None,
            "error": error,
            "attempts": attempts,
            "since": from_ms(parked_ms).isoformat(),
        }


def _cursor(connection: sqlite3.Connection, scope: Scope) -> Iterator[dict[str, Any]]:
    """The last message that the sensory stage has passed."""
    row = connection.execute(
        "SELECT m.id FROM message m JOIN stage_cursor c ON c.stage = 'sense' AND c.tenant = m.tenant "
        "AND c.user = m.user WHERE m.tenant = ? AND m.user = ? AND m.seq <= c.seq ORDER BY m.seq DESC LIMIT 1",
        (scope.tenant, scope.user),
    ).fetchone()
    if row is not None:
        yield {"type": "cursor", "user": scope.user, "message": row[0]}


def _iso(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else from_ms(milliseconds).isoformat()

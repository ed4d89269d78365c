"""Whole memories, page by page, and the users that have one.

A page starts after the last item of the one before, not after a number of items, so that what is added or deleted
meanwhile moves nothing. Pending messages come first, in the order of the log; then entries in the order in which their
first versions were made. A message that becomes an entry between two pages may be seen twice, under its two ids.
"""

from __future__ import annotations

import base64
import binascii
import json
import sqlite3
from typing import Any

from lightmem_engine.errors import InvalidInput
from lightmem_engine.stores.curate import latest, pending
from lightmem_engine.stores.entries import PENDING
from lightmem_engine.stores.rows import from_ms
from lightmem_engine.types import EntryPage, Kind, MemoryEntry, Scope, State

_MAX_INTEGER = 2**63 - 1
_MIN_INTEGER = -_MAX_INTEGER
# Where an entry's first source stands in the log: entries of one batch are made at the same moment.
_FIRST = "SELECT s.{} FROM entry_source s WHERE s.entry = f.id AND s.version = 1 ORDER BY s.message, s.start LIMIT 1"


def page(
    connection: sqlite3.Connection,
    scope: Scope,
    *,
    limit: int,
    cursor: str | None = None,
    state: State | None = None,
    kind: Kind | None = None,
    session: str | None = None,
) -> EntryPage:
    """The next `limit` things remembered of a user. Raises `InvalidInput` for a cursor that no page gave."""
    place = None if cursor is None else _read(cursor, "me")
    found: list[tuple[list[Any], MemoryEntry]] = []
    if (place is None or place[0] == "m") and state in (None, "pending") and kind in (None, "turn"):
        found += _pending(connection, scope, 0 if place is None else place[1], session, limit + 1)
    if state != "pending" and len(found) <= limit:
        first = (_MIN_INTEGER, 0, 0, "") if place is None or place[0] == "m" else tuple(place[1:])
        found += _entries(connection, scope, first, (state, kind, session), limit + 1 - len(found))
    shown = found[:limit]
    return EntryPage(tuple(entry for _, entry in shown), _cursor(shown[-1][0]) if len(found) > limit else None)


def users(
    connection: sqlite3.Connection, tenant: str, *, limit: int, cursor: str | None = None
) -> tuple[list[dict[str, Any]], str | None]:
    """The next `limit` users of a tenant by name, with what is stored of them, and the cursor of the following."""
    place = ["u", ""] if cursor is None else _read(cursor, "u")
    names: list[str] = []
    name = str(place[1])
    while len(names) <= limit:
        row = connection.execute(
            "SELECT min(user) FROM (SELECT min(user) AS user FROM message WHERE tenant = ? AND user > ? "
            "UNION ALL SELECT min(user) FROM entry WHERE tenant = ? AND user > ?)",
            (tenant, name, tenant, name),
        ).fetchone()
        if row[0] is None:
            break
        name = row[0]
        names.append(name)
    found = [_user(connection, Scope(user=name, tenant=tenant)) for name in names[:limit]]
    return found, _cursor(["u", names[limit - 1]]) if len(names) > limit else None


def _user(connection: sqlite3.Connection, scope: Scope) -> dict[str, Any]:
    key = (scope.tenant, scope.user)
    messages, last = connection.execute(
        "SELECT count(*), max(recorded_ms) FROM message WHERE tenant = ? AND user = ?", key
    ).fetchone()
    entries = connection.execute("SELECT count(DISTINCT id) FROM entry WHERE tenant = ? AND user = ?", key).fetchone()[
        0
    ]
    last_recorded_at = None if last is None else from_ms(last).isoformat()
    return {"user_id": scope.user, "messages": messages, "entries": entries, "last_recorded_at": last_recorded_at}


def _pending(
    connection: sqlite3.Connection, scope: Scope, after: int, session: str | None, limit: int
) -> list[tuple[list[Any], MemoryEntry]]:
    rows = connection.execute(
        f"SELECT m.seq, m.id FROM message m WHERE m.tenant = ? AND m.user = ? AND m.seq > ? AND {PENDING} "
        "AND (? IS NULL OR m.session = ?) ORDER BY m.seq LIMIT ?",
        (scope.tenant, scope.user, after, session, session, limit),
    ).fetchall()
    found = pending(connection, scope, [id for _, id in rows])
    return [(["m", seq], found[id]) for seq, id in rows]


def _entries(
    connection: sqlite3.Connection,
    scope: Scope,
    after: tuple[Any, ...],
    wanted: tuple[State | None, Kind | None, str | None],
    limit: int,
) -> list[tuple[list[Any], MemoryEntry]]:
    columns = [
        name for name, value in zip(("e.state", "e.kind", "e.session"), wanted, strict=True) if value is not None
    ]
    where = "".join(f" AND {name} = ?" for name in columns)
    rows = connection.execute(
        f"SELECT f.recorded_at, ({_FIRST.format('message')}) AS seq, ({_FIRST.format('start')}) AS start, f.id "
        "FROM entry f JOIN entry e ON e.id = f.id AND e.version = (SELECT max(version) FROM entry l WHERE l.id = f.id) "
        "WHERE f.tenant = ? AND f.user = ? AND f.version = 1 AND f.recorded_at >= ? "
        f"AND (f.recorded_at, seq, start, f.id) > (?, ?, ?, ?){where} ORDER BY f.recorded_at, seq, start, f.id LIMIT ?",
        (scope.tenant, scope.user, after[0], *after, *(value for value in wanted if value is not None), limit),
    ).fetchall()
    found = latest(connection, scope, [row[3] for row in rows])
    return [(["e", *row], found[row[3]]) for row in rows]


def _cursor(place: list[Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def _read(cursor: str, lists: str) -> list[Any]:
    """The place that `_cursor` wrote, in one of the lists named by their letters."""
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
        json.dumps(place, ensure_ascii=False).encode()  # half a character pair cannot be asked for
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidInput("cursor is not one that this list gave") from error
    match place:
        case ["m", int(_)]:
            known = "m"
        case ["e", int(_), int(_), int(_), str(_)]:
            known = "e"
        case ["u", str(_)]:
            known = "u"
        case _:
            known = "?"
    numbers = [part for part in place if isinstance(part, int)] if known != "?" else []
    if any(not _MIN_INTEGER <= number <= _MAX_INTEGER for number in numbers):
        known = "?"
    if known not in lists:
        raise InvalidInput("cursor is not one that this list gave")
    result: list[Any] = place
    return result

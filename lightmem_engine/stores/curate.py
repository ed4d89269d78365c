"""Reading and changing single entries: what a user or an operator does by hand.

An entry is named by its id, a message that is still pending by the message's, as in hits. What is another user's is not
there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lightmem_engine.errors import Conflict, NotFound
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.stores import chats, edges
from lightmem_engine.stores.entries import PENDING
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import from_ms, select_in, to_blob, to_json, to_ms
from lightmem_engine.types import EntryChange, MemoryEntry, Scope, Vector

_COLUMNS = (
    "id, version, kind, text, valid_from, offset_s, valid_to, recorded_at, superseded_at, state, session, speaker, "
    "tags, metadata"
)


def get(connection: sqlite3.Connection, scope: Scope, id: str) -> MemoryEntry:
    """An entry as it stands, or a pending message; `NotFound` if this user has none of that id."""
    found = latest(connection, scope, [id]).get(id) or pending(connection, scope, [id]).get(id)
    if found is None:
        raise not_found(connection, scope, id)
    return found


def history(connection: sqlite3.Connection, scope: Scope, id: str) -> list[MemoryEntry]:
    """All versions of an entry, oldest first; a pending message is its own only version."""
    return _load(connection, scope, [id]) or [get(connection, scope, id)]


def latest(connection: sqlite3.Connection, scope: Scope, ids: Sequence[str]) -> dict[str, MemoryEntry]:
    """The newest version of each of these entries."""
    return {entry.id: entry for entry in _load(connection, scope, ids)}  # versions ascend, so the last one stays


def pending(connection: sqlite3.Connection, scope: Scope, ids: Sequence[str]) -> dict[str, MemoryEntry]:
    """Those of these messages that are pending, by their ids and in the order of the log."""
    sql = (
        "SELECT m.seq, m.id, m.session, m.speaker, m.content, m.event_ms, m.offset_s, m.recorded_ms, m.metadata "
        f"FROM message m WHERE m.tenant = ? AND m.user = ? AND m.id IN ({{in}}) AND {PENDING}"
    )
    rows = sorted(select_in(connection, sql, ids, scope.tenant, scope.user))
    return {
        id: MemoryEntry(
            id=id,
            scope=scope,
            version=0,
            kind="turn",
            text=f"{speaker}: {content}",
            session=session,
            speaker=speaker,
            event_time=from_ms(event_ms, offset_s),
            valid_to=None,
            recorded_at=from_ms(recorded_ms),
            state="pending",
            source_ids=(id,),
            metadata=json.loads(metadata),
        )
        for _, id, session, speaker, content, event_ms, offset_s, recorded_ms, metadata in rows
    }


def patch(
    connection: sqlite3.Connection,
    scope: Scope,
    id: str,
    change: EntryChange,
    vector: Vector | None,
    embed_model: str,
    now: datetime,
) -> MemoryEntry:
    """Store a new version; the old one stays as history. What changes nothing makes no version.

    vector: of `change.text`, if there is one.   Raises `NotFound`, and `Conflict` for a pending message or a version
    that moved on.
    """
    entry = get(connection, scope, id)
    if entry.state == "pending":
        raise Conflict(f"{id} is a message that is still pending: flush first, then change the entry made of it")
    if change.if_version is not None and change.if_version != entry.version:
        raise Conflict(f"{id} is at version {entry.version}, not {change.if_version}")
    text = entry.text if change.text is None else change.text
    tags = entry.tags if change.tags is None else tuple(dict.fromkeys(change.tags))
    metadata = merged(entry.metadata, change.metadata or {})
    if (text, tags, metadata) == (entry.text, entry.tags, dict(entry.metadata)):
        return entry
    key = (id, entry.version)
    connection.execute(
        "INSERT INTO entry (id, version, tenant, user, kind, text, valid_from, offset_s, valid_to, recorded_at, state, "
        "segment, session, speaker, role, tags, metadata) SELECT id, version + 1, tenant, user, kind, ?, valid_from, "
        "offset_s, valid_to, ?, state, segment, session, speaker, role, ?, ? FROM entry WHERE id = ? AND version = ?",
        (text, to_ms(now), to_json(list(tags)), to_json(metadata), *key),
    )
    connection.execute(
        "UPDATE entry SET state = 'superseded', superseded_at = ? WHERE id = ? AND version = ?", (to_ms(now), *key)
    )
    connection.execute(
        'INSERT INTO entry_source (entry, version, message, start, "end") '
        'SELECT entry, version + 1, message, start, "end" FROM entry_source WHERE entry = ? AND version = ?',
        key,
    )
    if vector is None:
        connection.execute(
            "INSERT INTO vector (entry, version, embed_model, blob) "
            "SELECT entry, version + 1, embed_model, blob FROM vector WHERE entry = ? AND version = ?",
            key,
        )
    else:
        connection.execute(
            "INSERT INTO vector (entry, version, embed_model, blob) VALUES (?, ?, ?, ?)",
            (id, entry.version + 1, embed_model, to_blob(vector)),
        )
    edges.write(connection, [id])
    record_changes(connection, scope, "entry", [id])
    changed = get(connection, scope, id)
    if text != entry.text:
        tell_chats(connection, scope, {id: prompts.memory_line(changed), **_as_pending(connection, changed)})
    return changed


def _as_pending(connection: sqlite3.Connection, entry: MemoryEntry) -> dict[str, str | None]:
    """What conversations that recalled a turn while it was pending, under the ids of its messages, show from now on:
    the new line if nothing else was made of the message, otherwise nothing."""
    if entry.kind != "turn":
        return {}
    sql = (
        "SELECT m.id, count(DISTINCT s.entry) FROM entry_source s JOIN message m ON m.seq = s.message "
        "WHERE s.message IN (SELECT message FROM entry_source WHERE entry = ? AND version = ?) GROUP BY m.id"
    )
    line = prompts.memory_line(entry)
    return {id: line if number == 1 else None for id, number in connection.execute(sql, (entry.id, entry.version))}


def tell_chats(connection: sqlite3.Connection, scope: Scope, changed: Mapping[str, str | None]) -> None:
    """Let conversations that show these memories, by hit id, show the new line instead, or nothing."""
    chats.rewrite(connection, scope, changed)


def merged(old: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the keys of `change` set, or gone where their value is None."""
    return {key: value for key, value in {**old, **change}.items() if not (key in change and value is None)}


def not_found(connection: sqlite3.Connection, scope: Scope, id: str) -> NotFound:
    """The same words for what never was and for what is somebody else's. To the owner of a message that is no longer
    pending, the entries made of it."""
    rows = connection.execute(
        "SELECT DISTINCT s.entry FROM message m JOIN entry_source s ON s.message = m.seq "
        "WHERE m.tenant = ? AND m.user = ? AND m.id = ? ORDER BY s.entry",
        (scope.tenant, scope.user, id),
    ).fetchall()
    if rows:
        return NotFound(f"{id} is no longer pending; it became {', '.join(row[0] for row in rows)}")
    return NotFound(f"there is no entry {id!r}")


def _load(connection: sqlite3.Connection, scope: Scope, ids: Sequence[str]) -> list[MemoryEntry]:
    """All versions of these entries, each entry's oldest first."""
    sources: dict[tuple[str, int], list[str]] = {}
    sql = (
        "SELECT s.entry, s.version, m.id FROM entry_source s JOIN message m ON m.seq = s.message "
        "WHERE s.entry IN ({in}) ORDER BY m.seq"
    )
    for id, version, message in select_in(connection, sql, ids):
        found = sources.setdefault((id, version), [])
        if message not in found:
            found.append(message)
    sql = f"SELECT {_COLUMNS} FROM entry WHERE tenant = ? AND user = ? AND id IN ({{in}}) ORDER BY id, version"
    return [_entry(row, scope, sources) for row in select_in(connection, sql, ids, scope.tenant, scope.user)]


def _entry(row: Sequence[Any], scope: Scope, sources: Mapping[tuple[str, int], Sequence[str]]) -> MemoryEntry:
    id, version, kind, text, valid_from, offset_s, valid_to, recorded_at, superseded_at, state, session, speaker = row[
        :12
    ]
    return MemoryEntry(
        id=id,
        scope=scope,
        version=version,
        kind=kind,
        text=text,
        session=session,
        speaker=speaker,
        event_time=from_ms(valid_from, offset_s),
        valid_to=None if valid_to is None else from_ms(valid_to),
        recorded_at=from_ms(recorded_at),
        state=state,
        source_ids=tuple(sources.get((id, version), ())),
        tags=tuple(json.loads(row[12])),
        metadata=json.loads(row[13]),
        superseded_at=None if superseded_at is None else from_ms(superseded_at),
    )

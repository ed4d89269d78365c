"""Memory lines that stand in prompts: what a block may show, what still holds, and how a change reaches them."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime

from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.stores.chat_rows import block_json, block_of, injection_json, injection_of
from lightmem_engine.stores.entries import hydrate
from lightmem_engine.stores.rows import select_in, to_ms
from lightmem_engine.types import Block, Hit, Note, Scope

MAX_CANDIDATES = 256
# Facts, and of turns what the user said; a question tells nothing. LATEST: entries are versioned.
_SHOWABLE = (
    "e.tenant = ? AND e.user = ? AND e.state = 'active' AND (e.valid_to IS NULL OR e.valid_to > ?) "
    "AND e.version = (SELECT max(version) FROM entry l WHERE l.id = e.id) "
    "AND (e.kind <> 'turn' OR e.role = 'user') AND substr(rtrim(e.text), -1) NOT IN ('?', '？', '؟')"
)


def fresh(connection: sqlite3.Connection, scope: Scope, block: Block, now: datetime) -> list[Hit]:
    """What a block may show and has not been considered for yet, newest first; a bounded number."""
    found = _newest(connection, scope, f"{_SHOWABLE} AND e.recorded_at >= ?", now, block.seen_ms)
    shown = {note.id for note in block.notes}
    return [hit for hit in found if hit.id not in shown]


def newest(connection: sqlite3.Connection, scope: Scope, now: datetime) -> list[Hit]:
    """What a block may be made of: facts, newest first, then the user's own words, newest first; a bounded number."""
    facts = _newest(connection, scope, f"{_SHOWABLE} AND e.kind <> 'turn' AND e.recorded_at >= ?", now, 0)
    return facts + _newest(connection, scope, f"{_SHOWABLE} AND e.kind = 'turn' AND e.recorded_at >= ?", now, 0)


def standing(connection: sqlite3.Connection, scope: Scope, notes: Iterable[Note]) -> tuple[Note, ...]:
    """The notes that still hold: their entry is active and reads as it did, or their message still says so and nobody
    has changed what was made of it meanwhile."""
    notes = tuple(notes)
    ids = [note.id for note in notes]
    hits = hydrate(connection, scope, ids)
    sql = (
        "SELECT m.id, m.speaker, m.content FROM message m WHERE m.tenant = ? AND m.user = ? AND m.id IN ({in}) "
        "AND m.superseded_ms IS NULL "
        "AND NOT EXISTS (SELECT 1 FROM entry_source s WHERE s.message = m.seq AND s.version > 1)"
    )
    rows = select_in(connection, sql, ids, scope.tenant, scope.user)
    messages = {id: (speaker, content) for id, speaker, content in rows}
    return tuple(
        note
        for note in notes
        if _reads_the_same(hits.get(note.id), note) or (note.id in messages and _says(*messages[note.id], note))
    )


def rewrite(connection: sqlite3.Connection, scope: Scope, changed: Mapping[str, str | None]) -> None:
    """Carry an edit, a deletion or an erasure into every block and every injected text of the user.

    changed: ids of entries, or of messages -> the new memory line, or None where nothing may stay. Lines that were
    injected while their message was still waiting carry the message's id: those of the entries' sources change with
    them, so call this before the rows of the entries go.
    """
    lines = dict(changed)
    sql = (
        "SELECT s.entry, m.id FROM entry_source s JOIN message m ON m.seq = s.message "
        "WHERE m.tenant = ? AND m.user = ? AND s.entry IN ({in})"
    )
    for entry, message in select_in(connection, sql, changed, scope.tenant, scope.user):
        if lines.get(message, "") is not None:
            lines[message] = changed[entry]
    _rewrite_injections(connection, scope, lines)
    _rewrite_blocks(connection, scope, lines)


def _rewrite_injections(connection: sqlite3.Connection, scope: Scope, lines: Mapping[str, str | None]) -> None:
    rows = connection.execute(
        "SELECT l.id, t.session, l.injection FROM chat_thread t JOIN chat_link l ON l.thread = t.id "
        "WHERE t.tenant = ? AND t.user = ? AND l.injection IS NOT NULL",
        (scope.tenant, scope.user),
    ).fetchall()
    sessions = set()
    for link, session, text in rows:
        injection = injection_of(text)
        notes = _changed(injection.notes, lines)
        if notes != injection.notes:
            after = injection_json(replace(injection, notes=notes))
            connection.execute("UPDATE chat_link SET injection = ? WHERE id = ?", (after, link))
            sessions.add(session)
    for session in sessions:
        key = (scope.tenant, scope.user, session)
        sql = "SELECT block FROM chat_session WHERE tenant = ? AND user = ? AND session = ? AND block IS NOT NULL"
        for (text,) in connection.execute(sql, key).fetchall():
            block = block_of(text)
            connection.execute(
                "UPDATE chat_session SET block = ? WHERE tenant = ? AND user = ? AND session = ?",
                (block_json(replace(block, epoch=block.epoch + 1)), *key),
            )


def _rewrite_blocks(connection: sqlite3.Connection, scope: Scope, lines: Mapping[str, str | None]) -> None:
    key = (scope.tenant, scope.user)
    sql = "SELECT session, block FROM chat_session WHERE tenant = ? AND user = ? AND block IS NOT NULL"
    for session, text in connection.execute(sql, key).fetchall():
        after = _rewritten(block_of(text), lines)
        if after is not None:
            connection.execute(
                "UPDATE chat_session SET block = ? WHERE tenant = ? AND user = ? AND session = ?",
                (block_json(after), *key, session),
            )
    sql = "SELECT block FROM chat_user WHERE tenant = ? AND user = ? AND block IS NOT NULL"
    for (text,) in connection.execute(sql, key).fetchall():
        after = _rewritten(block_of(text), lines)
        if after is not None:
            connection.execute(
                "UPDATE chat_user SET block = ? WHERE tenant = ? AND user = ?", (block_json(after), *key)
            )


def _rewritten(block: Block, lines: Mapping[str, str | None]) -> Block | None:
    notes = _changed(block.notes, lines)
    return None if notes == block.notes else Block(notes, block.epoch + 1, block.seen_ms)


def _changed(notes: Iterable[Note], lines: Mapping[str, str | None]) -> tuple[Note, ...]:
    after = ((note.id, lines.get(note.id, note.line)) for note in notes)
    return tuple(Note(id, line) for id, line in after if line is not None)


def _newest(connection: sqlite3.Connection, scope: Scope, where: str, now: datetime, since_ms: int) -> list[Hit]:
    rows = connection.execute(
        f"SELECT e.id FROM entry e WHERE {where} ORDER BY e.recorded_at DESC, e.valid_from DESC LIMIT ?",
        (scope.tenant, scope.user, to_ms(now), since_ms, MAX_CANDIDATES),
    ).fetchall()
    hits = hydrate(connection, scope, [id for (id,) in rows])
    return [hits[id] for (id,) in rows]


def _reads_the_same(hit: Hit | None, note: Note) -> bool:
    return hit is not None and hit.state == "active" and prompts.memory_line(hit) == note.line


def _says(speaker: str, content: str, note: Note) -> bool:
    """Whether the line is a stretch of the message: another one may bear its id by now, or have lost its words."""
    said = note.line.partition("] ")[2].removeprefix(prompts.one_line(f"{speaker}:"))
    return said.strip() in prompts.one_line(content)

"""Entries and the feed of changes that derived indexes live on."""

from __future__ import annotations

import json
import re
import sqlite3
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from lightmem_engine.mentions import edges_of, names_of
from lightmem_engine.stores import edges
from lightmem_engine.stores.edges import EDITED, LATEST, said
from lightmem_engine.stores.heirs import BY_HAND, folded, heirs
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.rows import from_blob, from_ms, offset_of, select_in, to_blob, to_json, to_ms
from lightmem_engine.types import EntryDraft, Hit, IndexDoc, Scope, Vector

_ENTRY = (
    "e.id, e.kind, e.text, e.valid_from, e.offset_s, e.valid_to, e.recorded_at, e.state, e.session, e.speaker, "
    "e.role, e.tags, e.metadata"
)
# The key of a pending stretch: message sequence and first character.
_PLACE = re.compile(r"m\d+\.\d+")
PENDING = (
    "NOT EXISTS (SELECT 1 FROM sensed s JOIN segment g ON g.id = s.segment WHERE s.message = m.seq "
    "AND g.state = 'extracted') AND m.role IN ('user', 'assistant') AND m.superseded_ms IS NULL"
)


def insert(
    connection: sqlite3.Connection,
    scope: Scope,
    drafts: Sequence[EntryDraft],
    vectors: Sequence[Vector],
    embed_model: str,
    now: datetime,
) -> list[str]:
    """Append entries (soft insert) with sources and vectors; returns their ids."""
    ids = []
    for draft, vector in zip(drafts, vectors, strict=True):
        id = uuid.uuid4().hex
        ids.append(id)
        connection.execute(
            "INSERT INTO entry VALUES (?, 1, ?, ?, ?, ?, ?, ?, NULL, ?, NULL, NULL, 'active', ?, ?, ?, ?, ?, ?)",
            (
                id,
                scope.tenant,
                scope.user,
                draft.kind,
                draft.text,
                to_ms(draft.event_time),
                offset_of(draft.event_time),
                to_ms(now),
                draft.segment,
                draft.session,
                draft.speaker,
                draft.role,
                to_json(list(draft.tags)),
                to_json(dict(draft.metadata)),
            ),
        )
        connection.executemany(
            "INSERT INTO entry_source VALUES (?, 1, ?, ?, ?)",
            [(id, source.message_seq, source.start, source.end) for source in draft.sources],
        )
        connection.execute("INSERT INTO vector VALUES (?, 1, ?, ?)", (id, embed_model, to_blob(vector)))
    edges.write(connection, ids)
    record_changes(connection, scope, "entry", ids)
    return ids


def changes(connection: sqlite3.Connection, scope: Scope, since: int) -> tuple[list[IndexDoc], int]:
    """What an index that has applied `since` must apply now, and the sequence it then stands at.

    `since` = 0 asks for the user's whole present state, in the order of the log.
    """
    row = connection.execute(
        "SELECT max(seq) FROM change WHERE tenant = ? AND user = ?", (scope.tenant, scope.user)
    ).fetchone()
    newest = max(int(row[0] or 0), since, 1)
    if since == 0:
        docs = _pending_docs(connection, scope, None) + _entry_docs(connection, scope, None)
        return sorted(docs, key=lambda doc: doc.position), newest
    rows = connection.execute(
        "SELECT what, ref FROM change WHERE tenant = ? AND user = ? AND seq > ? ORDER BY seq",
        (scope.tenant, scope.user, since),
    ).fetchall()
    if not rows:
        return [], newest
    messages = dict.fromkeys(ref for what, ref in rows if what == "message")
    entries = dict.fromkeys(ref for what, ref in rows if what == "entry")
    sql = "SELECT DISTINCT entry FROM entry_source WHERE message IN ({in})"
    entries |= dict.fromkeys(row[0] for row in select_in(connection, sql, messages))
    entries |= dict.fromkeys(folded(connection, entries))
    pending = _pending_docs(connection, scope, list(messages))
    present = _entry_docs(connection, scope, list(entries))
    alive = {doc.key for doc in pending} | {doc.key for doc in present}
    return _drops(connection, messages, entries, alive) + pending + present, newest


def hydrate(connection: sqlite3.Connection, scope: Scope, refs: Iterable[str]) -> dict[str, Hit]:
    """The stored truth behind index references; what is gone or not this user's is absent. Scores are 0."""
    refs = list(refs)
    key = (scope.tenant, scope.user)
    hits: dict[str, Hit] = {}
    sources: dict[str, list[str]] = {}
    sql = (
        "SELECT s.entry, m.id FROM entry_source s JOIN entry e ON e.id = s.entry AND e.version = s.version "
        "JOIN message m ON m.seq = s.message "
        f"WHERE e.tenant = ? AND e.user = ? AND e.id IN ({{in}}) AND {LATEST} ORDER BY s.entry, m.seq"
    )
    for entry, message_id in select_in(connection, sql, refs, *key):
        if message_id not in sources.setdefault(entry, []):
            sources[entry].append(message_id)
    sql = f"SELECT {_ENTRY} FROM entry e WHERE e.tenant = ? AND e.user = ? AND e.id IN ({{in}}) AND {LATEST}"
    for id, kind, text, valid_from, offset_s, _, recorded_at, state, _, speaker, *_ in select_in(
        connection, sql, refs, *key
    ):
        event_time = from_ms(valid_from, offset_s)
        found = tuple(sources.get(id, ()))
        hits[id] = Hit(id, text, 0.0, kind, found, event_time, from_ms(recorded_at), state, speaker)
    hits.update(_pending_hits(connection, scope, [ref for ref in refs if _PLACE.fullmatch(ref)]))
    return hits


def _pending_hits(connection: sqlite3.Connection, scope: Scope, keys: list[str]) -> dict[str, Hit]:
    """Hits for the keys of pending stretches of messages."""
    wanted: dict[int, list[tuple[str, int]]] = {}
    for key in keys:
        seq, _, start = key[1:].partition(".")
        wanted.setdefault(int(seq), []).append((key, int(start)))
    sql = (
        "SELECT m.seq, m.id, m.speaker, m.content, m.event_ms, m.offset_s, m.recorded_ms FROM message m "
        f"WHERE m.tenant = ? AND m.user = ? AND m.seq IN ({{in}}) AND {PENDING}"
    )
    rows = select_in(connection, sql, wanted, scope.tenant, scope.user)
    sql = 'SELECT message, start, "end" FROM piece WHERE message IN ({in})'
    ends = {(message, first): end for message, first, end in select_in(connection, sql, wanted)}
    hits = {}
    for seq, id, speaker, content, event_ms, offset_s, recorded_ms in rows:
        for key, begin in wanted[seq]:
            text = f"{speaker}: {content[begin : ends.get((seq, begin))]}"
            event_time, recorded_at = from_ms(event_ms, offset_s), from_ms(recorded_ms)
            hits[key] = Hit(id, text, 0.0, "turn", (id,), event_time, recorded_at, "pending", speaker)
    return hits


def _pending_docs(connection: sqlite3.Connection, scope: Scope, seqs: list[int] | None) -> list[IndexDoc]:
    """Docs of messages that no entry stands for yet: whole before the sensory stage, in pieces after it."""
    columns = (
        "m.seq, m.session, m.role, m.speaker, m.content, m.event_ms, m.offset_s, m.recorded_ms, m.metadata, "
        'p.start, p."end", p.vector'
    )
    sql = f"SELECT {columns} FROM message m LEFT JOIN piece p ON p.message = m.seq WHERE m.tenant = ? AND m.user = ?"
    key = (scope.tenant, scope.user)
    if seqs is None:
        rows = connection.execute(f"{sql} AND {PENDING}", key).fetchall()
    else:
        rows = select_in(connection, f"{sql} AND {PENDING} AND m.seq IN ({{in}})", seqs, *key)
    docs = []
    for seq, session, role, speaker, content, event_ms, offset_s, recorded_ms, metadata, start, end, blob in rows:
        begin = start or 0
        docs.append(
            IndexDoc(
                op="put",
                key=f"m{seq}.{begin}",
                ref=f"m{seq}.{begin}",
                session=session,
                position=(seq, begin),
                role=role,
                speaker=speaker,
                text=(words := content if start is None else content[start:end]),
                names=names_of(speaker, edges_of(speaker, words, {})),
                vector=None if blob is None else from_blob(blob),
                event_time=from_ms(event_ms, offset_s),
                recorded_at=from_ms(recorded_ms),
                metadata=json.loads(metadata),
            )
        )
    return docs


def _entry_docs(connection: sqlite3.Connection, scope: Scope, ids: list[str] | None) -> list[IndexDoc]:
    """Docs of the latest version of entries. An extractive entry is found by its original words until somebody
    changes its text; what sleep made of it is found besides, and what was merged into it at its own place."""
    merged = f"e.kind = 'turn' AND {EDITED} AND NOT {BY_HAND}"
    first = "(SELECT o.blob FROM vector o WHERE o.entry = e.id AND o.version = 1)"
    columns = f'{_ENTRY}, v.blob, s.message, s.start, s."end", m.content, {EDITED}, CASE WHEN {merged} THEN {first} END'
    sql = (
        f"SELECT {columns} FROM entry e JOIN vector v ON v.entry = e.id AND v.version = e.version "
        # Its place is that of its first version: later ones may rest on the messages of others, too.
        "JOIN entry_source s ON s.entry = e.id AND s.version = 1 JOIN message m ON m.seq = s.message "
        f"WHERE e.tenant = ? AND e.user = ? AND {LATEST}"
    )
    key = (scope.tenant, scope.user)
    rows: list[Any]
    if ids is None:
        rows = connection.execute(sql, key).fetchall()
    else:
        rows = select_in(connection, f"{sql} AND e.id IN ({{in}})", ids, *key)
    names = edges.names(connection, scope, ids)
    lives_on = heirs(connection, [row[0] for row in rows if row[7] == "archived"])
    docs: dict[str, list[IndexDoc]] = {}
    for row in sorted(rows, key=lambda row: (row[0], row[14], row[15])):
        id, kind, text, valid_from, offset_s, valid_to, recorded_at, state, session, speaker, role = row[:11]
        tags, metadata, blob, seq, start, end, content, edited, original = row[11:]
        if id in docs:
            continue
        turn = kind == "turn"
        own = IndexDoc(
            op="put",
            key=f"m{seq}.{start}" if turn else f"e{id}",
            ref=id,
            session="" if kind == "summary" else session,  # it was not said in any
            position=(seq, start),
            kind=kind,
            state=state,
            role=role,
            speaker=speaker,
            text=said(speaker, text) if turn and edited else content[start:end] if turn else text,
            vector=from_blob(blob),
            event_time=from_ms(valid_from, offset_s),
            valid_to=None if valid_to is None else from_ms(valid_to),
            recorded_at=from_ms(recorded_at),
            tags=tuple(json.loads(tags)),
            metadata=json.loads(metadata),
            names=names.get(id, ()),
            heir=lives_on.get(id, ""),
        )
        docs[id] = [own]
        if original is not None:  # what sleep wrote stands beside the conversation, not in it
            docs[id] = [
                replace(own, text=content[start:end], vector=from_blob(original)),
                replace(own, key=f"e{id}", session=""),
            ]
    return [doc for own in docs.values() for doc in own]


def _drops(
    connection: sqlite3.Connection, messages: Iterable[int], entries: Iterable[str], alive: set[str]
) -> list[IndexDoc]:
    """Keys that changed messages and entries may have held and hold no longer."""
    seqs = list(messages)
    sql = "SELECT message, start FROM piece WHERE message IN ({in})"
    keys = {f"m{seq}.0": "" for seq in seqs}
    keys |= {f"m{seq}.{start}": "" for seq, start in select_in(connection, sql, seqs)}
    keys |= {f"e{id}": "" for id in entries}
    return [IndexDoc(op="drop", key=key, ref="") for key in keys if key not in alive]

"""Forgetting one entry: its versions, vectors and sources, and its words in the messages it was made of.

A message that nothing else cites goes whole. Where another entry cites it too, the characters that only the deleted
entry stood for are overwritten with spaces, so that the places of the others hold. Facts that a language model drew
cite whole turns: such a message stays as long as another fact cites the same words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np

from lightmem_engine.stores import scrub
from lightmem_engine.stores.curate import PLACE, get, places, tell_chats
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.reembed import turn_vector
from lightmem_engine.stores.rows import from_blob, to_blob
from lightmem_engine.types import Scope

Span = tuple[int, int]  # characters [start, end)


def delete_entry(connection: sqlite3.Connection, scope: Scope, id: str) -> None:
    """Delete an entry, or a message that is still pending; `NotFound` if this user has none of that id."""
    get(connection, scope, id)
    match = PLACE.fullmatch(id)
    told = [id]
    if match:
        seq, start = int(match.group(1)), int(match.group(2))
        end = connection.execute('SELECT "end" FROM piece WHERE message = ? AND start = ?', (seq, start)).fetchone()
        spans: dict[int, list[Span]] = {seq: [(start, end[0] if end else _length(connection, seq))]}
    else:
        told += places(connection, [id])
        spans = {}
        sql = 'SELECT DISTINCT message, start, "end" FROM entry_source WHERE entry = ?'
        for message, start, stop in connection.execute(sql, (id,)).fetchall():
            spans.setdefault(message, []).append((start, stop))
        connection.execute("DELETE FROM entry WHERE id = ?", (id,))  # vectors and sources follow
        record_changes(connection, scope, "entry", [id])
    for message, gone in spans.items():
        told += _forget_words(connection, scope, message, gone)
    tell_chats(connection, scope, dict.fromkeys(told))
    scrub.note(connection)


def _forget_words(connection: sqlite3.Connection, scope: Scope, seq: int, gone: Sequence[Span]) -> list[str]:
    """Take these stretches out of a message; returns the hit ids that stood for what is no longer there."""
    record_changes(connection, scope, "message", [seq])
    cited: list[Span] = connection.execute(
        'SELECT DISTINCT start, "end" FROM entry_source WHERE message = ?', (seq,)
    ).fetchall()
    pieces: list[Span] = connection.execute('SELECT start, "end" FROM piece WHERE message = ?', (seq,)).fetchall()
    waiting = [piece for piece in pieces if piece not in gone] if _is_pending(connection, seq) else []
    keep = [*cited, *waiting]
    if not keep:
        keys = [f"m{seq}.{start}" for start, _ in pieces] or [f"m{seq}.0"]
        _erase_message(connection, scope, seq)
        return keys
    content = connection.execute("SELECT content FROM message WHERE seq = ?", (seq,)).fetchone()[0]
    blanked = blank(content, gone, keep)
    connection.execute("UPDATE message SET content = ? WHERE seq = ?", (blanked, seq))
    lost = [(start, end) for start, end in pieces if not blanked[start:end].strip() and content[start:end].strip()]
    connection.executemany("DELETE FROM piece WHERE message = ? AND start = ?", [(seq, start) for start, _ in lost])
    _average(connection, seq)
    return [f"m{seq}.{start}" for start, _ in lost]


def blank(content: str, gone: Iterable[Span], keep: Iterable[Span]) -> str:
    """`content` with spaces for every character of `gone` that is in no stretch of `keep`."""
    erased = np.zeros(len(content), bool)
    for start, end in gone:
        erased[start:end] = True
    for start, end in keep:
        erased[start:end] = False
    return "".join(" " if out else character for character, out in zip(content, erased.tolist(), strict=True))


def _erase_message(connection: sqlite3.Connection, scope: Scope, seq: int) -> None:
    """Remove a message that nothing cites, and the segment that held nothing else."""
    segment = connection.execute("SELECT segment FROM sensed WHERE message = ?", (seq,)).fetchone()
    key = (scope.tenant, scope.user)
    connection.execute("DELETE FROM message WHERE seq = ?", (seq,))  # what was sensed of it follows
    connection.execute("DELETE FROM parked WHERE stage = 'sense' AND tenant = ? AND user = ? AND item = ?", (*key, seq))
    if segment is None or segment[0] is None:
        return
    item = (*key, segment[0])
    left = connection.execute("SELECT 1 FROM sensed WHERE segment = ? LIMIT 1", (segment[0],)).fetchone()
    if left is None:
        connection.execute("DELETE FROM parked WHERE stage = 'extract' AND tenant = ? AND user = ? AND item = ?", item)
        connection.execute("DELETE FROM segment WHERE id = ?", (segment[0],))
    else:  # what the model said of it may quote the message
        connection.execute(
            "UPDATE parked SET error = 'failed; one of its messages was deleted since' "
            "WHERE stage = 'extract' AND tenant = ? AND user = ? AND item = ?",
            item,
        )


def _average(connection: sqlite3.Connection, seq: int) -> None:
    """The vector of a turn is the mean of its pieces: of those that are left."""
    rows = connection.execute("SELECT vector FROM piece WHERE message = ?", (seq,)).fetchall()
    if rows:
        whole = turn_vector([from_blob(row[0]) for row in rows])
        connection.execute("UPDATE sensed SET vector = ? WHERE message = ?", (to_blob(whole), seq))


def _is_pending(connection: sqlite3.Connection, seq: int) -> bool:
    row = connection.execute(
        "SELECT g.state FROM sensed s LEFT JOIN segment g ON g.id = s.segment WHERE s.message = ?", (seq,)
    ).fetchone()
    return row is not None and row[0] != "extracted"


def _length(connection: sqlite3.Connection, seq: int) -> int:
    return int(connection.execute("SELECT length(content) FROM message WHERE seq = ?", (seq,)).fetchone()[0])

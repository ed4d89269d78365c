"""Forgetting one entry: its versions, vectors and sources, and its words in the messages it was made of.

A message that nothing else cites goes whole. Where another entry cites it too, the characters that only the deleted
entry stood for are overwritten with spaces, so that the places of the others hold. Facts that a language model drew
cite whole turns: such a message stays as long as another fact cites the same words.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import numpy as np

from lightmem_engine.stores import scrub, summaries
from lightmem_engine.stores.curate import get, tell_chats
from lightmem_engine.stores.log import record_changes
from lightmem_engine.stores.reembed import turn_vector
from lightmem_engine.stores.rows import from_blob, to_blob
from lightmem_engine.types import Scope

Span = tuple[int, int]  # characters [start, end)


def delete_entry(connection: sqlite3.Connection, scope: Scope, id: str) -> None:
    """Delete an entry, or a message that is still pending; `NotFound` if this user has none of that id."""
    entry = get(connection, scope, id)
    told = [id]
    if entry.state == "pending":
        sql = "SELECT seq FROM message WHERE tenant = ? AND user = ? AND id = ?"
        (seq,) = connection.execute(sql, (scope.tenant, scope.user, id)).fetchone()
        _erase_message(connection, scope, seq)
    else:
        sql = (
            'SELECT DISTINCT s.message, m.id, s.start, s."end" FROM entry_source s JOIN message m ON m.seq = s.message '
            "WHERE s.entry = ?"
        )
        spans: dict[int, list[Span]] = {}
        for message, message_id, start, end in connection.execute(sql, (id,)).fetchall():
            spans.setdefault(message, []).append((start, end))
            told.append(message_id)  # conversations may have recalled it while it was pending
        for folded in _folded(connection, id):  # they say the same, and rest on the same messages
            delete_entry(connection, scope, folded)
        for summary in summaries.telling_of(connection, id):  # they hold its words; what is left is told anew
            delete_entry(connection, scope, summary)
        connection.execute("DELETE FROM entry WHERE id = ?", (id,))  # vectors, sources and links follow
        connection.execute("DELETE FROM sleep_pair WHERE target = ? OR source = ?", (id, id))
        connection.execute("DELETE FROM sleep_seen WHERE entry = ?", (id,))
        record_changes(connection, scope, "entry", [id])
        for message, gone in spans.items():
            _forget_words(connection, scope, message, gone)
    tell_chats(connection, scope, dict.fromkeys(told))
    scrub.note(connection)


def _folded(connection: sqlite3.Connection, id: str) -> list[str]:
    """Archived entries whose words live on in this one: its duplicates, what was merged into it, the entry that it was
    split off."""
    rows = connection.execute(
        "SELECT entry FROM entry_link WHERE other = ? AND kind <> 'split' "
        "UNION SELECT k.other FROM entry_link k JOIN entry e ON e.id = k.other WHERE k.entry = ? AND k.kind = 'split'",
        (id, id),
    )
    return [found for (found,) in rows.fetchall()]


def _forget_words(connection: sqlite3.Connection, scope: Scope, seq: int, gone: Sequence[Span]) -> None:
    """Take these stretches out of a message, as far as no other entry cites them."""
    keep: list[Span] = connection.execute(
        'SELECT DISTINCT start, "end" FROM entry_source WHERE message = ?', (seq,)
    ).fetchall()
    if not keep:
        _erase_message(connection, scope, seq)
        return
    record_changes(connection, scope, "message", [seq])
    content = connection.execute("SELECT content FROM message WHERE seq = ?", (seq,)).fetchone()[0]
    blanked = blank(content, gone, keep)
    connection.execute("UPDATE message SET content = ? WHERE seq = ?", (blanked, seq))
    pieces = connection.execute('SELECT start, "end" FROM piece WHERE message = ?', (seq,)).fetchall()
    lost = [start for start, end in pieces if blanked[start:end] != content[start:end]]
    connection.executemany("DELETE FROM piece WHERE message = ? AND start = ?", [(seq, start) for start in lost])
    _average(connection, seq)


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
    record_changes(connection, scope, "message", [seq])
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

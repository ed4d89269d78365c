"""Where messages stand: what became of those that a stage has read, while it was at work."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from lightmem_engine.stores.rows import select_in
from lightmem_engine.types import Scope, Segment, Turn


def settled(connection: sqlite3.Connection, stage: str, seqs: Iterable[int]) -> set[int]:
    """Those of these messages that are sensed already, or parked in this stage: an import brings such."""
    seqs = list(seqs)
    sensed = select_in(connection, "SELECT message FROM sensed WHERE message IN ({in})", seqs)
    parked = select_in(connection, "SELECT item FROM parked WHERE stage = ? AND item IN ({in})", seqs, stage)
    return {seq for (seq,) in [*sensed, *parked]}


def open_messages(connection: sqlite3.Connection, scope: Scope, session: str) -> list[int]:
    """The sensed messages of a session that no closed segment holds yet, in order."""
    rows = connection.execute(
        "SELECT message FROM sensed WHERE tenant = ? AND user = ? AND session = ? AND segment IS NULL ORDER BY message",
        (scope.tenant, scope.user, session),
    )
    return [seq for (seq,) in rows]


def alive(connection: sqlite3.Connection, turns: Iterable[Turn]) -> set[int]:
    """The places of those turns that the log still holds word by word: not deleted since they were read."""
    texts = {turn.seq: turn.text for turn in turns}
    rows = select_in(connection, "SELECT seq, content FROM message WHERE seq IN ({in})", texts)
    return {seq for seq, content in rows if texts[seq] == content}


def is_unchanged(connection: sqlite3.Connection, segment: Segment) -> bool:
    """Whether a segment still waits and holds what it held when it was loaded."""
    row = connection.execute("SELECT state FROM segment WHERE id = ?", (segment.id,)).fetchone()
    if row is None or row[0] != "closed":
        return False
    turns = [sensed.turn for sensed in segment.turns]
    return alive(connection, turns) == {turn.seq for turn in turns}

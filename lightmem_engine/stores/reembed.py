"""From one vector space to another: every stored vector is computed anew from the words it stands for.

The work goes in small transactions. While it is under way the database says so, with the embedder it leads to and how
far the log is done, so that it can go on after a crash and nobody compares vectors of two spaces meanwhile.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from lightmem_engine.errors import ConfigError
from lightmem_engine.stores.edges import EDITED, said
from lightmem_engine.stores.rows import select_in, to_blob
from lightmem_engine.types import Vector, Vectors

BATCH = 128
Encode = Callable[[Sequence[str]], Vectors]
Spoken = Callable[[str, str], str]


class Progress(NamedTuple):
    """Vectors computed so far, and in all."""

    done: int
    total: int


def check_finished(connection: sqlite3.Connection) -> None:
    """`ConfigError` while a re-embedding is under way."""
    begun = _begun(connection)
    if begun is not None:
        raise ConfigError(
            f"embedding this memory anew with {begun[0]} was begun and not finished; "
            "run `lightmem-engine reindex` to go on"
        )


def bound_to(connection: sqlite3.Connection) -> str | None:
    """The embedder this memory lives with; None for an empty one."""
    row = connection.execute("SELECT value FROM meta WHERE key = 'embed_model'").fetchone()
    return None if row is None else str(row[0])


def reembed(connection: sqlite3.Connection, name: str, encode: Encode, spoken: Spoken) -> Iterator[Progress]:
    """Embed everything with the embedder `name`; a step is on disk when its progress comes out.

    connection: in autocommit mode.   spoken: (speaker, words) as they are written for the embedder.
    """
    begun = _begun(connection)
    if begun is None and bound_to(connection) in (name, None):
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('embed_model', ?)", (name,))
        return
    after = begun[1] if begun is not None and begun[0] == name else 0
    if not after:
        _commit(connection, lambda: _note(connection, name, 0))
    total = sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("sensed", "vector"))
    done = connection.execute("SELECT count(*) FROM sensed WHERE message <= ?", (after,)).fetchone()[0]
    done += connection.execute("SELECT count(*) FROM vector WHERE embed_model = ?", (name,)).fetchone()[0]
    yield Progress(done, total)
    while seqs := _next_messages(connection, after):
        vectors = _message_vectors(connection, seqs, encode, spoken)
        after = seqs[-1]
        _commit(connection, lambda: _store_messages(connection, vectors, name, after))  # noqa: B023  runs at once
        done += len(seqs)
        yield Progress(done, total)
    while rows := _next_entries(connection, name):
        texts = entry_texts(connection, [(id, version) for id, version in rows], spoken)
        blobs = [to_blob(row) for row in encode([texts[key] for key in rows])]
        _commit(connection, lambda: _store_entries(connection, rows, blobs, name))  # noqa: B023  runs at once
        done += len(rows)
        yield Progress(done, total)
    _commit(connection, lambda: _finish(connection, name))


def entry_texts(
    connection: sqlite3.Connection, keys: Iterable[tuple[str, int]], spoken: Spoken
) -> dict[tuple[str, int], str]:
    """What the vector of each version of an entry is computed from: a turn's original words until its text is changed,
    and its own text for anything else."""
    wanted = set(keys)
    sql = (
        'SELECT e.id, e.version, e.kind, e.speaker, e.text, substr(m.content, s.start + 1, s."end" - s.start), '
        f"{EDITED} FROM entry e LEFT JOIN entry_source s ON s.entry = e.id AND s.version = 1 "
        "LEFT JOIN message m ON m.seq = s.message WHERE e.id IN ({in}) ORDER BY e.id, e.version, s.message, s.start"
    )
    texts: dict[tuple[str, int], str] = {}
    for id, version, kind, speaker, text, words, edited in select_in(connection, sql, {id for id, _ in wanted}):
        key = (id, version)
        if key in wanted and key not in texts:
            texts[key] = embedded_text(kind, speaker, text, None if edited else words, spoken)
    return texts


def embedded_text(kind: str, speaker: str, text: str, words: str | None, spoken: Spoken) -> str:
    """What stands for an entry before the embedder; `words` are those of its message, None once the text is changed."""
    if kind != "turn":
        return text
    return spoken(speaker, said(speaker, text) if words is None else words)


def turn_vector(pieces: Sequence[Vector]) -> Vector:
    """The vector of a whole turn: the normalised mean of its pieces, the first one where they cancel out."""
    mean = np.mean(pieces, axis=0)
    length = float(np.linalg.norm(mean))
    return np.asarray(mean / length, np.float32) if length > 1e-6 else pieces[0]


def _begun(connection: sqlite3.Connection) -> tuple[str, int] | None:
    row = connection.execute("SELECT value FROM meta WHERE key = 'reindex'").fetchone()
    if row is None:
        return None
    name, after = json.loads(row[0])
    return str(name), int(after)


def _note(connection: sqlite3.Connection, name: str, after: int) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('reindex', ?)", (json.dumps([name, after]),))


def _commit(connection: sqlite3.Connection, work: Callable[[], None]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        work()
        connection.execute("COMMIT")
    finally:
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _next_messages(connection: sqlite3.Connection, after: int) -> list[int]:
    rows = connection.execute("SELECT message FROM sensed WHERE message > ? ORDER BY message LIMIT ?", (after, BATCH))
    return [seq for (seq,) in rows]


def _message_vectors(
    connection: sqlite3.Connection, seqs: Sequence[int], encode: Encode, spoken: Spoken
) -> dict[int, list[tuple[int, Vector]]]:
    """Per message the first character and the vector of each piece."""
    sql = (
        'SELECT p.message, p.start, m.speaker, substr(m.content, p.start + 1, p."end" - p.start) FROM piece p '
        "JOIN message m ON m.seq = p.message WHERE p.message IN ({in}) ORDER BY p.message, p.start"
    )
    rows = select_in(connection, sql, seqs)
    found: dict[int, list[tuple[int, Vector]]] = {}
    vectors: Sequence[Vector] = list(encode([spoken(speaker, words) for *_, speaker, words in rows])) if rows else []
    for (seq, start, _, _), vector in zip(rows, vectors, strict=True):
        found.setdefault(seq, []).append((start, vector))
    return found


def _store_messages(
    connection: sqlite3.Connection,
    vectors: dict[int, list[tuple[int, Vector]]],
    name: str,
    after: int,
) -> None:
    for seq, pieces in vectors.items():
        connection.executemany(
            "UPDATE piece SET vector = ? WHERE message = ? AND start = ?",
            [(to_blob(vector), seq, start) for start, vector in pieces],
        )
        whole = to_blob(turn_vector([vector for _, vector in pieces]))
        connection.execute("UPDATE sensed SET vector = ? WHERE message = ?", (whole, seq))
    _note(connection, name, after)


def _next_entries(connection: sqlite3.Connection, name: str) -> list[tuple[str, int]]:
    sql = "SELECT entry, version FROM vector WHERE embed_model <> ? LIMIT ?"
    return [(id, version) for id, version in connection.execute(sql, (name, BATCH))]


def _store_entries(
    connection: sqlite3.Connection, keys: Sequence[tuple[str, int]], blobs: Sequence[bytes], name: str
) -> None:
    connection.executemany(
        "UPDATE vector SET embed_model = ?, blob = ? WHERE entry = ? AND version = ?",
        [(name, blob, id, version) for (id, version), blob in zip(keys, blobs, strict=True)],
    )


def _finish(connection: sqlite3.Connection, name: str) -> None:
    connection.execute("INSERT OR REPLACE INTO meta VALUES ('embed_model', ?)", (name,))
    connection.execute("DELETE FROM meta WHERE key = 'reindex'")

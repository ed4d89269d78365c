"""The next version of an entry, made by a run of sleep: with the sources it had, and another state or text."""

from __future__ import annotations

import sqlite3
from datetime import datetime

from lightmem_engine.stores.rows import to_blob, to_ms
from lightmem_engine.types import State, Vector


def advance(
    connection: sqlite3.Connection,
    id: str,
    before: int,
    run: str,
    state: State,
    now: datetime,
    *,
    text: str | None = None,
    vector: Vector | None = None,
    embed_model: str = "",
    valid_to: datetime | None = None,
) -> int:
    """Close version `before` and write the one after it; returns its number. What is not given stays as it was.

    vector: of `text`, in the space of `embed_model`.
    """
    key, moment = (id, before), to_ms(now)
    connection.execute(
        "INSERT INTO entry SELECT id, version + 1, tenant, user, kind, coalesce(?, text), valid_from, offset_s, "
        "coalesce(?, valid_to), ?, NULL, ?, ?, segment, session, speaker, role, tags, metadata FROM entry "
        "WHERE id = ? AND version = ?",
        (text, None if valid_to is None else to_ms(valid_to), moment, run, state, *key),
    )
    connection.execute(
        "UPDATE entry SET state = 'superseded', superseded_at = ? WHERE id = ? AND version = ?", (moment, *key)
    )
    connection.execute(
        'INSERT INTO entry_source SELECT entry, version + 1, message, start, "end" FROM entry_source '
        "WHERE entry = ? AND version = ?",
        key,
    )
    if vector is None:
        connection.execute(
            "INSERT INTO vector SELECT entry, version + 1, embed_model, blob FROM vector "
            "WHERE entry = ? AND version = ?",
            key,
        )
    else:
        connection.execute("INSERT INTO vector VALUES (?, ?, ?, ?)", (id, before + 1, embed_model, to_blob(vector)))
    return before + 1

"""The memory graph as it is stored: edges of entries, written with each version and gone with it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable

from lightmem_engine.mentions import Edge, edges_of, names_of
from lightmem_engine.stores.rows import select_in
from lightmem_engine.types import Scope

LATEST = "e.version = (SELECT max(version) FROM entry l WHERE l.id = e.id)"
# Whether a version says something else than the first one, which the words of the message stand for.
EDITED = "e.version > 1 AND e.text <> (SELECT f.text FROM entry f WHERE f.id = e.id AND f.version = 1)"


def said(speaker: str, text: str) -> str:
    """The words of a turn entry, without the speaker in front."""
    return text.removeprefix(f"{speaker}: ")


_PARTS = ("subject", "relation", "object", "entities")


def write(connection: sqlite3.Connection, ids: Iterable[str]) -> None:
    """Give the newest version of each of these entries its edges, unless it has them. Earlier ones keep theirs."""
    sql = (
        "SELECT e.id, e.version, e.tenant, e.user, e.kind, e.speaker, e.text, e.metadata, "
        f'substr(m.content, s.start + 1, s."end" - s.start), {EDITED} FROM entry e '
        "JOIN entry_source s ON s.entry = e.id AND s.version = 1 JOIN message m ON m.seq = s.message "
        f"WHERE {LATEST} AND e.id IN ({{in}}) AND NOT EXISTS (SELECT 1 FROM entry_edge k "
        "WHERE k.entry = e.id AND k.version = e.version) ORDER BY e.id, s.message, s.start"
    )
    found: dict[str, list[tuple[str | int, ...]]] = {}
    for id, version, tenant, user, kind, speaker, text, metadata, words, edited in select_in(connection, sql, ids):
        if id not in found:
            own = words if kind == "turn" and not edited else said(speaker, text)
            # What a language model found; of the same names, a caller's own are none of its.
            model = {"turn": (), "relation": _PARTS}.get(kind, _PARTS[-1:])
            known = {part: value for part, value in json.loads(metadata).items() if part in model}
            found[id] = [
                (id, version, number, tenant, user, edge.subject, edge.relation, edge.object)
                for number, edge in enumerate(edges_of(speaker, own, known), 1)
            ]
    connection.executemany(
        "INSERT INTO entry_edge VALUES (?, ?, ?, ?, ?, ?, ?, ?)", [row for rows in found.values() for row in rows]
    )


def write_missing(connection: sqlite3.Connection) -> None:
    """Edges for the entries of a file that was made before there were any; once."""
    if connection.execute("INSERT OR IGNORE INTO meta VALUES ('edges', '1')").rowcount:
        write(connection, [id for (id,) in connection.execute("SELECT DISTINCT id FROM entry").fetchall()])


def names(connection: sqlite3.Connection, scope: Scope, ids: Iterable[str] | None) -> dict[str, tuple[str, ...]]:
    """What the newest version of each entry speaks of, but for the speaker himself; of all entries if `ids` is None."""
    sql = (
        "SELECT e.id, e.speaker, k.subject, k.relation, k.object FROM entry e "
        "JOIN entry_edge k ON k.entry = e.id AND k.version = e.version "
        f"WHERE e.tenant = ? AND e.user = ? AND {LATEST}"
    )
    owner = (scope.tenant, scope.user)
    order = "ORDER BY e.id, k.number"
    if ids is None:
        rows = connection.execute(f"{sql} {order}", owner).fetchall()
    else:
        rows = select_in(connection, f"{sql} AND e.id IN ({{in}}) {order}", ids, *owner)
    found: dict[tuple[str, str], list[Edge]] = {}
    for id, speaker, subject, relation, thing in rows:
        found.setdefault((id, speaker), []).append(Edge(subject, relation, thing))
    return {id: names_of(speaker, own) for (id, speaker), own in found.items()}

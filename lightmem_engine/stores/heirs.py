"""Where the words of a folded entry live on.

Sleep unites entries that say the same or belong together: one survives, the others are archived and linked to it.
Search still looks for each at its own place and by its own words, but what it then shows is the survivor.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from lightmem_engine.stores.edges import LATEST
from lightmem_engine.stores.rows import select_in

# Somebody changed the text himself: then its first words, and those of what was folded into it, no longer stand for it.
BY_HAND = (
    "EXISTS (SELECT 1 FROM entry h JOIN entry p ON p.id = h.id AND p.version = h.version - 1 "
    "WHERE h.id = e.id AND h.run_id IS NULL AND h.text <> p.text)"
)
_FOLDED = "k.kind <> 'split'"


def heirs(connection: sqlite3.Connection, ids: Iterable[str]) -> dict[str, str]:
    """The active entry in which each of these lives on, over any number of steps; of those that do."""
    sql = (
        "SELECT k.entry, k.other FROM entry_link k JOIN entry e ON e.id = k.entry AND e.version = k.version "
        f"WHERE {_FOLDED} AND {LATEST} AND e.state = 'archived' AND k.entry IN ({{in}})"
    )
    found = dict(select_in(connection, sql, ids))
    new = set(found.values())
    follow: dict[str, str] = {}
    while new:
        more = dict(select_in(connection, sql, new))
        follow |= more
        new = set(more.values()) - follow.keys()
    last = {id: _end(heir, follow) for id, heir in found.items()}
    sql = f"SELECT e.id FROM entry e WHERE {LATEST} AND e.state = 'active' AND NOT {BY_HAND} AND e.id IN ({{in}})"
    alive = {id for (id,) in select_in(connection, sql, set(last.values()))}
    return {id: heir for id, heir in last.items() if heir in alive}


def folded(connection: sqlite3.Connection, ids: Iterable[str]) -> set[str]:
    """What was folded into these, and into that."""
    found: set[str] = set()
    new = set(ids)
    while new:
        rows = select_in(connection, f"SELECT k.entry FROM entry_link k WHERE {_FOLDED} AND k.other IN ({{in}})", new)
        new = {id for (id,) in rows} - found
        found |= new
    return found


def _end(id: str, follow: dict[str, str]) -> str:
    seen = {id}
    while id in follow and follow[id] not in seen:
        id = follow[id]
        seen.add(id)
    return id

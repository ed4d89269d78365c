"""A user's rows in every table, found by the shape of the tables, so that one added later is not forgotten.

A table belongs to users if it has the columns `tenant` and `user`, or if a foreign key leads from it to one that does.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from lightmem_engine.stores import scrub
from lightmem_engine.types import Scope

GLOBAL_TABLES = frozenset({"meta", "kv_gone"})  # what holds nothing of any user


class Owned(NamedTuple):
    """A table with rows of users, and the condition (over the alias `t0`) that finds one user's."""

    table: str
    condition: str


class _Link(NamedTuple):
    """A foreign key: pairs (column here, column there)."""

    parent: str
    columns: tuple[tuple[str, str], ...]


def erase_user(connection: sqlite3.Connection, scope: Scope) -> dict[str, int]:
    """Delete every row of a user; returns how many messages, entries and rows in all. The bytes go with `scrub`."""
    key = {"tenant": scope.tenant, "user": scope.user}
    where = "tenant = :tenant AND user = :user"
    messages = connection.execute(f"SELECT count(*) FROM message WHERE {where}", key).fetchone()[0]
    entries = connection.execute(f"SELECT count(DISTINCT id) FROM entry WHERE {where}", key).fetchone()[0]
    rows = 0
    for table, condition in owned_tables(connection):
        rows += connection.execute(f'DELETE FROM "{table}" AS t0 WHERE {condition}', key).rowcount
    if rows:
        scrub.note(connection)
    return {"messages": messages, "entries": entries, "rows": rows}


def owned_tables(connection: sqlite3.Connection) -> list[Owned]:
    """Every table with rows of users, those that refer to others before these."""
    names = [
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%' ORDER BY name"
        )
    ]
    links = {name: _links(connection, name) for name in names}
    scoped = {name for name in names if {"tenant", "user"} <= _columns(connection, name)}
    owned = set(scoped)
    while more := {name for name in set(names) - owned if any(link.parent in owned for link in links[name])}:
        owned |= more
    ordered: list[str] = []
    while left := [name for name in names if name in owned and name not in ordered]:
        referred = {link.parent for name in left for link in links[name] if link.parent != name}
        ordered += [name for name in left if name not in referred] or left  # a circle goes in any order
    return [Owned(name, _condition(name, scoped, owned, links, 0)) for name in ordered]


def _condition(name: str, scoped: set[str], owned: set[str], links: dict[str, list[_Link]], depth: int) -> str:
    here, there = f"t{depth}", f"t{depth + 1}"
    if name in scoped:
        return f"{here}.tenant = :tenant AND {here}.user = :user"
    found = []
    for parent, columns in links[name]:
        if parent in owned and parent != name:
            joined = " AND ".join(f'{there}."{far}" = {here}."{near}"' for near, far in columns)
            beyond = _condition(parent, scoped, owned, links, depth + 1)
            found.append(f'EXISTS (SELECT 1 FROM "{parent}" AS {there} WHERE {joined} AND {beyond})')
    return " OR ".join(found)


def _columns(connection: sqlite3.Connection, table: str) -> set[str]:
    return {row[1] for row in connection.execute(f'PRAGMA table_info("{table}")')}


def _links(connection: sqlite3.Connection, table: str) -> list[_Link]:
    keys: dict[int, list[tuple[str, str, str]]] = {}
    for id, _, parent, near, far, *_ in connection.execute(f'PRAGMA foreign_key_list("{table}")'):
        keys.setdefault(id, []).append((parent, near, far))
    links = []
    for found in keys.values():
        parent = found[0][0]
        primary = _primary_key(connection, parent)  # what a foreign key means that names no columns
        links.append(_Link(parent, tuple((near, far or primary[i]) for i, (_, near, far) in enumerate(found))))
    return links


def _primary_key(connection: sqlite3.Connection, table: str) -> list[str]:
    parts = [(row[5], row[1]) for row in connection.execute(f'PRAGMA table_info("{table}")') if row[5]]
    return [name for _, name in sorted(parts)]

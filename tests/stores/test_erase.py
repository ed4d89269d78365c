"""Which tables an erasure reaches, and what deleting one entry does to the words of a message."""

from __future__ import annotations

import sqlite3

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.stores import schema
from lightmem_engine.stores.delete import blank
from lightmem_engine.stores.erase import GLOBAL_TABLES, erase_user, owned_tables
from lightmem_engine.types import Scope


def _database() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    schema.migrate(connection)
    return connection


def _tables(connection: sqlite3.Connection) -> set[str]:
    sql = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'"
    return {name for (name,) in connection.execute(sql)}


def test_every_table_is_a_users_or_known_to_be_nobodys() -> None:
    connection = _database()
    owned = {table for table, _ in owned_tables(connection)}
    assert owned | GLOBAL_TABLES == _tables(connection), "whose are the rows of the new table?"


def test_a_table_added_later_is_found_by_its_columns_or_its_keys() -> None:
    connection = _database()
    connection.executescript(
        """CREATE TABLE note (tenant TEXT, user TEXT, id INTEGER PRIMARY KEY, text TEXT, above REFERENCES note (id));
        CREATE TABLE page (note INTEGER REFERENCES note, number INTEGER, PRIMARY KEY (note, number));
        CREATE TABLE line (note INTEGER, number INTEGER, text TEXT, FOREIGN KEY (note, number) REFERENCES page);
        CREATE TABLE weather (day TEXT, text TEXT);"""
    )
    for user, id in (("ann", 1), ("bob", 2)):
        connection.execute("INSERT INTO note VALUES ('default', ?, ?, 'x', NULL)", (user, id))
        connection.execute("INSERT INTO page VALUES (?, 1)", (id,))
    names = [table for table, _ in owned_tables(connection)]
    assert names.index("page") < names.index("note")
    assert "weather" not in names
    assert erase_user(connection, Scope("ann"))["rows"] == 2
    assert connection.execute("SELECT note FROM page").fetchall() == [(2,)]
    assert connection.execute("SELECT user FROM note").fetchall() == [("bob",)]


def test_a_foreign_key_of_several_columns_to_a_primary_key_that_is_not_named() -> None:
    connection = _database()
    connection.executescript(
        """CREATE TABLE page (tenant TEXT, user TEXT, book TEXT, number INTEGER, PRIMARY KEY (book, number));
        CREATE TABLE line (book TEXT, page INTEGER, text TEXT, FOREIGN KEY (book, page) REFERENCES page);
        INSERT INTO page VALUES ('default', 'ann', 'b', 1), ('default', 'bob', 'b', 2);
        INSERT INTO line VALUES ('b', 1, 'hers'), ('b', 2, 'his');"""
    )
    assert erase_user(connection, Scope("ann"))["rows"] == 2
    assert connection.execute("SELECT text FROM line").fetchall() == [("his",)]


spans = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)).map(lambda pair: (min(pair), max(pair))), max_size=4)


@given(content=st.text(max_size=20), gone=spans, keep=spans)
def test_blanking_takes_exactly_what_nothing_else_stands_on(
    content: str, gone: list[tuple[int, int]], keep: list[tuple[int, int]]
) -> None:
    blanked = blank(content, gone, keep)
    assert len(blanked) == len(content)
    for place, (before, after) in enumerate(zip(content, blanked, strict=True)):
        erased = any(start <= place < end for start, end in gone)
        kept = any(start <= place < end for start, end in keep)
        assert after == (" " if erased and not kept else before)

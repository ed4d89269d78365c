"""A file of an older engine opens, keeps all it holds, and can do what is new."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from lightmem_engine.memory import AsyncMemory
from lightmem_engine.models.stub_encoder import StubEmbedder
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.schema import MIGRATIONS, SCHEMA_VERSION, migrate
from lightmem_engine.types import Scope
from tests.support.memory import quick_config, user


def _objects(connection: sqlite3.Connection) -> set[tuple[str, str]]:
    return set(connection.execute("SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%'"))


def _version_1(path: Path) -> None:
    """A file as the first version made it, with a settled message and a waiting one."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.executescript(MIGRATIONS[0])
    connection.execute("PRAGMA user_version = 1")
    for seq, text in ((1, "The parrot is called Zazu."), (2, "The boat is called Ida.")):
        connection.execute(
            "INSERT INTO message VALUES (?, 'default', 'ann', ?, 's', 'user', 'user', ?, ?, 0, ?, '{}', x'00')",
            (seq, f"m{seq}", text, 1700000000000 + seq, 1700000000000),
        )
    connection.execute("INSERT INTO session VALUES ('default', 'ann', 's', 2, 1700000000002, 1700000000000, 2)")
    connection.execute("INSERT INTO stage_cursor VALUES ('sense', 'default', 'ann', 1)")
    connection.execute("INSERT INTO segment VALUES (1, 'default', 'ann', 's', 6, 'extracted', 1700000000000)")
    vector = StubEmbedder().encode(["The parrot is called Zazu."])[0].tobytes()
    connection.execute("INSERT INTO sensed VALUES (1, 'default', 'ann', 's', 1, ?, NULL, NULL, 6)", (vector,))
    connection.execute(
        "INSERT INTO entry VALUES ('e1', 1, 'default', 'ann', 'turn', 'user: The parrot is called Zazu.', "
        "1700000000001, 0, NULL, 1700000000000, NULL, NULL, 'active', 1, 's', 'user', 'user', '[]', '{}')"
    )
    connection.execute("INSERT INTO entry_source VALUES ('e1', 1, 1, 0, 26)")
    connection.execute("INSERT INTO vector VALUES ('e1', 1, 'stub', ?)", (vector,))
    connection.close()


async def test_a_file_of_version_1_goes_on(tmp_path: Path) -> None:
    _version_1(tmp_path / "memory.db")
    async with AsyncMemory(quick_config(tmp_path, **{"block.max_tokens": 256})) as memory:
        assert (await memory.stats())["pending"] == 1
        stats = await memory.flush()
        assert (stats["messages"], stats["entries"], stats["pending"]) == (2, 2, 0)
        assert "Zazu" in await memory.chat([user("What is called Zazu?")], user_id="ann")
        states = {hit.text: hit.state for hit in await memory.engine.everything(Scope("ann"))}
        assert states["user: The parrot is called Zazu."] == "active"
    connection = sqlite3.connect(tmp_path / "memory.db")
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    assert connection.execute("SELECT count(*) FROM chat_link").fetchone()[0] == 2
    connection.close()


def test_every_way_to_the_present_schema_is_the_same(tmp_path: Path) -> None:
    fresh = sqlite3.connect(":memory:", isolation_level=None)
    migrate(fresh)
    _version_1(tmp_path / "old.db")
    old = sqlite3.connect(tmp_path / "old.db", isolation_level=None)
    migrate(old)
    assert _objects(old) == _objects(fresh)
    migrate(old)
    assert _objects(old) == _objects(fresh)
    fresh.close()
    old.close()


async def test_a_migration_that_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    _version_1(path)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE chat_key (in_the_way)")
    before = _objects(connection)
    connection.close()
    with pytest.raises(Exception, match="chat_key"):
        await MemoryDB.open(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchone()[0] == 1
    assert _objects(connection) == before
    connection.close()

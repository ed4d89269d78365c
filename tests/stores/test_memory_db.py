"""Opening a memory: created once, kept for ever, refused when it cannot be understood."""

from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from lightmem_engine.errors import ConfigError, CorruptStore, StoreError
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.schema import SCHEMA_VERSION


async def test_a_new_file_is_the_owners_alone_and_has_the_current_schema(tmp_path: Path) -> None:
    db = await MemoryDB.open(tmp_path / "memory.db")
    await db.aclose()
    assert stat.S_IMODE((tmp_path / "memory.db").stat().st_mode) == 0o600
    connection = sqlite3.connect(tmp_path / "memory.db")
    assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
    connection.close()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "memory.db")
    connection.execute("PRAGMA user_version = 999")
    connection.close()
    with pytest.raises(StoreError, match="999"):
        await MemoryDB.open(tmp_path / "memory.db")


async def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    db = await MemoryDB.open(tmp_path / "memory.db")
    await db.aclose()
    path = tmp_path / "memory.db"
    content = bytearray(path.read_bytes())
    content[5000:9000] = b"\xff" * 4000
    path.write_bytes(content)
    with pytest.raises((CorruptStore, StoreError)):
        await MemoryDB.open(path)


async def test_vectors_of_two_embedders_never_meet(tmp_path: Path) -> None:
    db = await MemoryDB.open(tmp_path / "memory.db")
    await db.bind_embedder("minilm@1")
    await db.bind_embedder("minilm@1")
    with pytest.raises(ConfigError, match=r"minilm@1.*other@2"):
        await db.bind_embedder("other@2")
    await db.aclose()

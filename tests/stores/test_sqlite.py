"""Group commit: durable, isolated per job, honest about failure."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.errors import Conflict, CorruptStore, StoreError
from lightmem_engine.stores.sqlite import Database


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "test.db")
    await database.write(lambda connection: connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY)") and None)
    yield database
    await database.aclose()


def _insert(n: int) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t VALUES (?)", (n,))
        return n

    return work


def _all(connection: sqlite3.Connection) -> list[int]:
    return [row[0] for row in connection.execute("SELECT n FROM t ORDER BY n")]


async def test_many_writers_one_truth(database: Database) -> None:
    done = await asyncio.gather(*(database.write(_insert(n)) for n in range(300)))
    assert sorted(done) == list(range(300))
    assert await database.read(_all) == list(range(300))


async def test_a_failing_job_undoes_only_itself(database: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t VALUES (100)")
        raise Conflict("changed my mind")

    works: list[Callable[[sqlite3.Connection], int | None]] = [_insert(1), half, _insert(1), _insert(2)]
    jobs = [database.write(work) for work in works]
    results: list[Any] = await asyncio.gather(*jobs, return_exceptions=True)
    assert results[0] == 1
    assert isinstance(results[1], Conflict)
    assert isinstance(results[2], StoreError)
    assert isinstance(results[2].__cause__, sqlite3.IntegrityError)
    assert results[3] == 2
    assert await database.read(_all) == [1, 2]


async def test_a_bug_in_a_job_reaches_its_caller(database: Database) -> None:
    with pytest.raises(KeyError):
        await database.write(lambda connection: dict[str, int]()["missing"])
    assert await database.write(_insert(5)) == 5


async def test_readers_cannot_write(database: Database) -> None:
    with pytest.raises(StoreError, match="readonly"):
        await database.read(_insert(9))


async def test_settings_that_durability_and_erasure_rest_on(database: Database) -> None:
    def pragmas(connection: sqlite3.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "secure_delete", "foreign_keys")
        return [connection.execute(f"PRAGMA {name}").fetchone()[0] for name in names]

    assert await database.write(pragmas) == ["wal", 2, 1, 1]


async def test_a_closed_database_refuses(tmp_path: Path) -> None:
    database = Database(tmp_path / "closed.db")
    await database.aclose()
    await database.aclose()
    with pytest.raises(StoreError, match="closed"):
        await database.write(lambda connection: None)


async def test_a_file_that_is_no_database_is_called_corrupt(tmp_path: Path) -> None:
    path = tmp_path / "garbage.db"
    path.write_bytes(b"this is not a database at all, but long enough to look" * 100)
    with pytest.raises(CorruptStore, match=r"garbage\.db"):
        Database(path)


async def test_a_full_disk_fails_the_writers_and_loses_nothing_committed(database: Database) -> None:
    await database.write(_insert(1))
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count = 3").fetchone())

    def big(connection: sqlite3.Connection) -> None:
        connection.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(10, 100_000)])

    with pytest.raises(StoreError, match="full"):
        await database.write(big)
    assert await database.read(_all) == [1]


async def test_damage_that_shows_up_ends_all_writing(tmp_path: Path) -> None:
    path = tmp_path / "test.db"
    first = Database(path)
    await first.write(lambda connection: connection.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, x)") and None)
    fill = "WITH RECURSIVE c(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < 200) " + (
        "INSERT INTO t SELECT n, hex(randomblob(500)) FROM c"
    )
    await first.write(lambda connection: connection.execute(fill) and None)
    await first.aclose()
    sound = path.read_bytes()
    path.write_bytes(sound[: 2 * 4096] + b"\xff" * (len(sound) - 2 * 4096))
    database = Database(path)
    sound_at = [database.is_sound]
    with pytest.raises(CorruptStore):
        await database.read(lambda connection: connection.execute("SELECT max(length(x)) FROM t").fetchall())
    sound_at.append(database.is_sound)
    assert sound_at == [True, False]
    for write in (database.write, database.write_alone):
        with pytest.raises(CorruptStore, match="nothing is stored"):
            await write(lambda connection: connection.execute("CREATE TABLE other (n)") and None)
    await database.aclose()

"""A session that falls silent while its last messages still wait is closed after them."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from lightmem_engine.pipeline.bisect import Retry
from lightmem_engine.pipeline.extract import ExtractStage
from lightmem_engine.pipeline.pipeline import Pipeline
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.runtime.clock import SystemClock
from lightmem_engine.stores import log, work
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import Scope, TurnDraft
from tests.support.memory import eventually

SCOPE, SESSION = Scope("ann"), "s"
START = datetime(2024, 1, 1, tzinfo=UTC)
IDLE_SECONDS = 0.05


class SlowSense:
    """Reads the log, waits to be released, and only then says that it is done."""

    def __init__(self, db: MemoryDB) -> None:
        self._db = db
        self.reading, self.release = asyncio.Event(), asyncio.Event()
        self.cursor = 0
        self.closed_at: list[int] = []

    async def run(self, scopes: Sequence[Scope]) -> dict[Scope, bool]:
        def newest(connection: sqlite3.Connection) -> int:
            turns = log.turns_after(connection, SCOPE, self.cursor, 16)
            return turns[-1].seq if turns else self.cursor

        seen = await self._db.read(newest)
        self.reading.set()
        await self.release.wait()
        await self._db.write(lambda connection: work.advance(connection, work.SENSE, SCOPE, seen))
        self.cursor = seen
        return dict.fromkeys(scopes, False)

    async def close_sessions(self, scope: Scope, sessions: Sequence[str]) -> None:
        self.closed_at.append(self.cursor)


class NoExtract:
    """Nothing to extract."""

    async def run(self, scope: Scope, *, force: bool) -> None:
        return


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[MemoryDB]:
    db = await MemoryDB.open(tmp_path / "memory.db")
    yield db
    await db.aclose()


async def _say(db: MemoryDB, number: int) -> None:
    draft = TurnDraft(f"m{number}", "user", "user", f"text {number}", START + timedelta(minutes=number), {})
    await db.append(SCOPE, [(SESSION, lambda last: [draft])], START)


async def test_silence_during_a_pass_closes_the_session_after_its_last_message(db: MemoryDB) -> None:
    sense = SlowSense(db)
    pipeline = Pipeline(
        db,
        cast(SenseStage, sense),
        cast(ExtractStage, NoExtract()),
        Retry(1, 0.01),
        IDLE_SECONDS,
        1,
        SystemClock(),
    )
    await pipeline.start()
    try:
        await _say(db, 1)
        pipeline.wake(SCOPE, SESSION)
        await sense.reading.wait()
        await _say(db, 2)
        pipeline.wake(SCOPE, SESSION)
        await asyncio.sleep(3 * IDLE_SECONDS)  # the session falls silent while its second message waits
        sense.release.set()

        async def closed_after_the_last() -> bool:
            return sense.closed_at[-1:] == [2]

        await eventually(closed_after_the_last)
    finally:
        await pipeline.aclose()
    assert sense.cursor == 2

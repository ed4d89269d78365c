"""A flush of everybody leaves out nobody who moves on while it looks."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from lightmem_engine.pipeline.pipeline import _targets
from lightmem_engine.stores import work
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import Scope, SensedTurn, Turn, TurnDraft

SCOPE, START = Scope("ann"), datetime(2024, 1, 1, tzinfo=UTC)


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[MemoryDB]:
    db = await MemoryDB.open(tmp_path / "memory.db")
    yield db
    await db.aclose()


async def test_a_message_that_is_sensed_meanwhile_is_waited_for(
    db: MemoryDB, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await db.append(SCOPE, [("s", lambda last: [TurnDraft("m1", "user", "user", "hello", START, {})])], START)
    turn = Turn(1, "m1", SCOPE, "s", "user", "user", "hello", START, START)
    plain = work.open_sessions

    def then_sensed(connection: sqlite3.Connection, scope: Scope | None = None) -> object:
        found = plain(connection, scope)
        other = sqlite3.connect(tmp_path / "memory.db")
        work.save_sensed(other, SCOPE, [SensedTurn(turn, (), np.zeros(2, np.float32), 0.0, 0.0, 1)])
        work.advance(other, work.SENSE, SCOPE, 1)
        other.commit()
        other.close()
        return found

    monkeypatch.setattr(work, "open_sessions", then_sensed)
    assert await db.read(lambda connection: _targets(connection, None)) == [(SCOPE, 1)]

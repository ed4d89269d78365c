"""The stages at work over many users, through the public face."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.assemble import build
from lightmem_engine.errors import BackendUnavailable, StoreError
from lightmem_engine.memory import AsyncMemory, as_messages
from lightmem_engine.models.stub_encoder import StubClassifier
from lightmem_engine.pipeline.extract import ExtractStage
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.stores.sqlite import Database
from lightmem_engine.types import Scope, Window, WindowScores
from tests.support.memory import eventually, everything, fail_at_poison, quick_config, source_ids, user


async def _never(self: SenseStage, scopes: Sequence[Scope]) -> dict[Scope, bool]:
    await asyncio.Event().wait()
    raise AssertionError


async def test_a_user_with_much_to_say_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes = threading.Semaphore(8)  # of the backlog, as long as the other one waits

    def score(self: StubClassifier, windows: Sequence[Window]) -> list[WindowScores]:
        assert passes.acquire(timeout=60)
        return plain(self, windows)

    plain = StubClassifier.score
    monkeypatch.setattr(StubClassifier, "score", score)
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add([user(f"parcel {n}", id=f"m{n}") for n in range(1000)], user_id="loud")
        await memory.add(user("one small parcel", id="m0"), user_id="quiet", wait=True)
        assert (await memory.stats(user_id="quiet"))["pending"] == 0
        assert (await memory.stats(user_id="loud"))["pending"] > 500
        passes.release(1000)
        stats = await memory.flush()
        assert (stats["pending"], stats["parked"]) == (0, [])
        assert source_ids(await everything(memory, "loud")) == [f"m{n}" for n in range(1000)]


async def test_silence_closes_a_session_and_extracts_below_the_threshold(tmp_path: Path) -> None:
    config = quick_config(tmp_path, **{"short_term.idle_seconds": 0.05, "short_term.threshold": 10**6})
    async with AsyncMemory(config) as memory:
        await memory.add(user("The parrot is called Zazu.", id="m1"), user_id="ann")

        async def is_through() -> bool:
            return bool((await memory.stats())["pending"] == 0)

        await eventually(is_through)
        assert [hit.state for hit in await everything(memory)] == ["active"]


async def test_an_open_session_waits(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add(user("The parrot is called Zazu."), user_id="ann")
        await asyncio.sleep(0.3)
        stats = await memory.stats()
        assert (stats["pending"], stats["entries"]) == (1, 0)


WORDS = " ".join(f"word{n}" for n in range(70))


@pytest.mark.parametrize(("threshold", "extracted"), [(0, True), (100, True), (10**6, False)])
async def test_closed_segments_wait_for_the_threshold(tmp_path: Path, threshold: int, extracted: bool) -> None:
    options = {"short_term.threshold": threshold, "segment.lookahead": 1, "segment.max_tokens": 64}
    async with AsyncMemory(quick_config(tmp_path, **options)) as memory:
        await memory.add([user(f"{WORDS} {n}") for n in range(8)], user_id="ann", session_id="s")

        async def is_segmented() -> bool:
            return len(await memory.engine.segments(Scope("ann"), "s")) >= 3

        async def is_extracted() -> bool:
            return bool((await memory.stats())["entries"])

        await eventually(is_segmented)
        if extracted:
            await eventually(is_extracted)
        else:
            await asyncio.sleep(0.2)
            assert not await is_extracted()


async def test_a_flush_of_one_user_leaves_the_others_alone(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        for name in ("ann", "bob", "eve"):
            await memory.add(user("The parrot is called Zazu."), user_id=name)
        await memory.flush(user_id="ann")
        pending = {name: (await memory.stats(user_id=name))["pending"] for name in ("ann", "bob", "eve")}
        assert pending == {"ann": 0, "bob": 1, "eve": 1}
        assert (await memory.flush())["pending"] == 0


async def test_a_flush_among_adds_covers_what_was_there_before_it(tmp_path: Path) -> None:
    """A flush that arrives while its user is being served must not be answered with less than the log held."""
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        for n in range(40):
            await memory.add(user(f"parcel {n}", id=f"m{n}"), user_id="ann", session_id=f"s{n % 3}")
            later = asyncio.create_task(memory.add(user(f"letter {n}"), user_id="ann", session_id="other"))
            await memory.flush(user_id="ann")
            states = {id: hit.state for hit in await everything(memory) for id in hit.source_ids}
            assert all(states[f"m{k}"] == "active" for k in range(n + 1)), n
            await later


async def test_many_flushes_at_once(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add([user(f"parcel {n}") for n in range(50)], user_id="ann")
        results = await asyncio.gather(*(memory.flush(user_id=name) for name in ["ann", None, "ann", "bob", None]))
        assert [result["pending"] for result in results] == [0] * 5


async def test_closing_answers_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SenseStage, "run", _never)
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add(user("parcel"), user_id="ann")
        waiting = asyncio.create_task(memory.flush())
        await asyncio.sleep(0.05)
    with pytest.raises(BackendUnavailable, match="closing"):
        await waiting


@pytest.mark.parametrize("stage", [SenseStage, ExtractStage])
async def test_unfinished_work_is_taken_up_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: type
) -> None:
    config = quick_config(tmp_path, **{"short_term.idle_seconds": 0.05})
    with monkeypatch.context() as broken:

        async def never(*_: Any, **__: Any) -> None:
            await asyncio.Event().wait()

        broken.setattr(stage, "run", never)
        async with AsyncMemory(config) as memory:
            await memory.add([user(f"parcel {n}", id=f"m{n}") for n in range(20)], user_id="ann")
            await asyncio.sleep(0.2)
            assert (await memory.stats())["entries"] == 0
    async with AsyncMemory(config) as memory:  # nobody asks for anything

        async def is_through() -> bool:
            return bool((await memory.stats())["pending"] == 0)

        await eventually(is_through)
        assert source_ids(await everything(memory)) == [f"m{n}" for n in range(20)]


async def test_a_poison_message_is_parked_and_stays_findable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fail_at_poison(monkeypatch, ValueError("cannot be embedded"))
    config = quick_config(tmp_path)
    async with AsyncMemory(config) as memory:
        for name in ("ann", "bob"):
            messages = [user("the poison cup" if n == 7 else f"parcel {n}", id=f"m{n}") for n in range(16)]
            await memory.add(messages, user_id=name)
        stats = await memory.flush()
        assert stats["pending"] == 0
        assert sorted(parked["user_id"] for parked in stats["parked"]) == ["ann", "bob"]
        assert all("cannot be embedded" in parked["error"] for parked in stats["parked"])
        assert stats["entries"] == 30
    async with AsyncMemory(config) as memory:
        assert len((await memory.stats())["parked"]) == 2
        assert source_ids(await memory.search("cup", user_id="ann", top_k=1)) == ["m7"]


async def test_a_disk_in_trouble_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    troubles = 3

    async def write(self: Database, work: Any) -> Any:
        nonlocal troubles
        if troubles and "append" not in work.__qualname__:
            troubles -= 1
            raise StoreError("the disk is full")
        return await plain(self, work)

    plain = Database.write
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        pass
    monkeypatch.setattr(Database, "write", write)
    troubles = 0
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        troubles = 3
        await memory.add(user("The parrot is called Zazu.", id="m1"), user_id="ann")

        async def is_over() -> bool:
            return troubles == 0

        await eventually(is_over)
        stats = await memory.flush()
        assert (stats["pending"], stats["parked"], stats["entries"]) == (0, [], 1)


async def test_two_thousand_users_each_with_a_state_of_their_own(tmp_path: Path) -> None:
    config = quick_config(tmp_path, **{"compress.rate": 1.0})
    async with AsyncMemory(config) as memory:
        for start in range(0, 2000, 200):
            some = range(start, start + 200)
            await asyncio.gather(*(memory.add(user(f"parcel {n}", id="m1"), user_id=f"u{n}") for n in some))
        stats = await memory.flush()
        assert (stats["users"], stats["messages"], stats["entries"]) == (2000, 2000, 2000)
        assert (stats["pending"], stats["parked"]) == (0, [])
        for n in (0, 999, 1999):
            assert [hit.text for hit in await everything(memory, f"u{n}")] == [f"user: parcel {n}"]
    connection = sqlite3.connect(tmp_path / "memory.db")
    assert connection.execute("SELECT count(*) FROM stage_cursor WHERE stage = 'sense'").fetchone() == (2000,)
    connection.close()


async def test_time_grows_strictly_within_a_session_whoever_adds(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        calls = [
            memory.add([user(f"parcel {n}"), user(f"letter {n}")], user_id="ann", session_id="s", timestamp=stamp)
            for n, stamp in enumerate(["2023-05-08T10:00:00Z", None, "2020-01-01T00:00:00+02:00", "8 May 2023"] * 5)
            if stamp != "8 May 2023"
        ]
        await asyncio.gather(*calls)
        await memory.flush()
        found = await everything(memory)
        assert len(found) == 30
        assert all(a.event_time < b.event_time for a, b in itertools.pairwise(found))


class _HandClock:
    """Time that the test turns."""

    def __init__(self, moment: datetime) -> None:
        self.moment = moment

    def now(self) -> datetime:
        return self.moment

    def monotonic(self) -> float:
        return time.monotonic()


async def test_a_retry_after_midnight_stores_nothing_twice(tmp_path: Path) -> None:
    clock = _HandClock(datetime(2024, 5, 1, 23, 59, tzinfo=UTC))
    engine = await build(quick_config(tmp_path), clock)
    try:
        message = user("The boiler code is 4711.", id="b1")
        assert await engine.add(Scope("ann"), as_messages(message)) == ["b1"]
        clock.moment += timedelta(minutes=2)
        assert await engine.add(Scope("ann"), as_messages(message)) == ["b1"]
        assert (await engine.stats(Scope("ann")))["messages"] == 1
    finally:
        await engine.aclose()

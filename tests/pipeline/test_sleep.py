"""Runs of sleep through the library face, by rules: what they do, show, undo, and when they happen."""

from __future__ import annotations

import asyncio
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.errors import BackendUnavailable, Conflict, InvalidInput, NotFound
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.pipeline.consolidate import Consolidator
from lightmem_engine.types import MemoryEntry
from tests.support.memory import eventually, quick_config, user

PARIS = user("I live in Paris.", id="m1", timestamp="2023-01-01T10:00:00Z")
ROME = user("Actually, I moved to Rome.", id="m2", timestamp="2023-03-01T10:00:00Z")
REX = user("My dog is called Rex.", id="m3", timestamp="2023-01-02T10:00:00Z")
REX_AGAIN = user("My dog is called Rex!", id="m4", timestamp="2023-01-03T10:00:00Z")


async def told(memory: AsyncMemory, *messages: dict[str, Any], user_id: str = "ann") -> None:
    for message in messages:
        await memory.add(message, user_id=user_id, session_id="s", wait=True)


async def by_message(memory: AsyncMemory, user_id: str = "ann") -> dict[str, MemoryEntry]:
    """Entries by the last message they rest on."""
    return {entry.source_ids[-1]: entry for entry in await memory.get_all(user_id=user_id)}


async def texts(memory: AsyncMemory, query: str, **options: Any) -> list[str]:
    return [hit.text for hit in await memory.search(query, user_id="ann", **options)]


async def test_after_sleep_the_new_is_found_and_not_the_old(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path, **{"compress.rate": 1.0})) as memory:
        await told(memory, PARIS, REX, ROME)
        assert "user: I live in Paris." in await texts(memory, "Where do I live?")
        run = await memory.sleep(user_id="ann")
        assert (run.state, run.mode, run.reason, run.applied, run.calls) == ("done", "rules", "call", 1, 0)
        assert "user: I live in Paris." not in await texts(memory, "Where do I live?")
        assert "user: Actually, I moved to Rome." in await texts(memory, "Where do I live?")
        early, late = datetime(2023, 2, 1, tzinfo=UTC), datetime(2023, 4, 1, tzinfo=UTC)
        assert "user: I live in Paris." in await texts(memory, "Where do I live?", as_of=early)
        assert "user: I live in Paris." not in await texts(memory, "Where do I live?", as_of=late)
        entry = (await by_message(memory))["m1"]
        assert [version.state for version in await memory.history(entry.id, user_id="ann")] == ["superseded"] * 2


async def test_a_second_run_finds_nothing_and_a_rollback_gives_back_what_was(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await told(memory, PARIS, REX, REX_AGAIN, ROME)
        before = await memory.get_all(user_id="ann")
        first = await memory.sleep(user_id="ann")
        assert first.applied == 3
        second = await memory.sleep()
        assert (second.user, second.state, second.pairs, second.applied) == (None, "done", 0, 0)
        report = await memory.sleep_run(first.id)
        assert [change.action for change in report.changes] == ["supersede", "duplicate", "duplicate"]
        assert [run.id for run in await memory.sleep_runs()] == [second.id, first.id]
        assert [run.id for run in await memory.sleep_runs(user_id="ann")] == [first.id]
        await told(memory, user("The parrot is called Zazu.", id="m9"))
        assert (await memory.rollback(first.id)).state == "rolled_back"
        after = await memory.get_all(user_id="ann")
        assert [entry for entry in after if entry.source_ids != ("m9",)] == before
        again = await memory.sleep(user_id="ann")
        assert again.applied == 0, "what was rolled back is not done again"
        with pytest.raises(Conflict):
            await memory.rollback(first.id)


async def test_new_memories_meet_the_old_ones(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await told(memory, PARIS)
        assert (await memory.sleep(user_id="ann")).applied == 0
        await told(memory, ROME)
        assert (await memory.sleep(user_id="ann")).applied == 1


async def test_users_and_tenants_do_not_meet(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await told(memory, PARIS)
        await told(memory, ROME, user_id="bob")
        run = await memory.sleep()
        assert (run.state, run.applied) == ("done", 0)
        engine = memory.engine
        with pytest.raises(NotFound):
            await engine.sleep_run("other", run.id)
        with pytest.raises(NotFound):
            await engine.rollback("other", run.id)
        assert await engine.sleep_runs("other") == []
        assert (await engine.sleep("other")).pairs == 0


async def test_bad_input_is_refused(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        with pytest.raises(InvalidInput, match="max_calls"):
            await memory.sleep(user_id="ann", max_calls=-1)
        with pytest.raises(InvalidInput, match="max_seconds"):
            await memory.sleep(user_id="ann", max_seconds=float("nan"))
        with pytest.raises(InvalidInput):
            await memory.sleep(user_id="")
        with pytest.raises(NotFound):
            await memory.sleep_run("nothing")
        with pytest.raises(NotFound):
            await memory.rollback("nothing")
        assert (await memory.sleep(user_id="nobody")).state == "done"


async def test_an_export_carries_what_sleep_did(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path / "a")) as memory:
        await told(memory, PARIS, REX, REX_AGAIN, ROME)
        await memory.sleep(user_id="ann")
        lines = [chunk async for chunk in memory.export()]
        before = await memory.get_all(user_id="ann")
        found = await texts(memory, "What is my dog called, and where do I live?")
    async with AsyncMemory(quick_config(tmp_path / "b")) as other:
        await other.import_(lines)
        assert await other.get_all(user_id="ann") == before
        assert await texts(other, "What is my dog called, and where do I live?") == found
        assert b"".join([chunk async for chunk in other.export()]) == b"".join(lines)
        assert (await other.sleep()).applied == 0
        await other.import_(lines)
        await other.delete((await by_message(other))["m4"].id, user_id="ann")
        left = [entry.source_ids for entry in await other.get_all(user_id="ann")]
        assert sorted(left) == [("m1",), ("m2",)], "what was folded into it went with it"


async def test_an_erased_user_leaves_no_run(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await told(memory, PARIS, REX, REX_AGAIN, ROME)
        run, _ = await memory.sleep(user_id="ann"), await memory.sleep()
        await memory.delete_all(user_id="ann")
        with pytest.raises(NotFound):
            await memory.sleep_run(run.id)
    connection = sqlite3.connect(tmp_path / "memory.db")
    for table in ("sleep_change", "sleep_pair", "sleep_seen", "entry_link"):
        assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
    assert connection.execute("SELECT user FROM sleep_run").fetchall() == [(None,)]
    connection.close()


@pytest.mark.parametrize("folded", ["m3", "m4"])
async def test_of_a_deleted_duplicate_nothing_is_left(tmp_path: Path, folded: str) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await told(memory, PARIS, REX, REX_AGAIN)
        await memory.sleep(user_id="ann")
        await memory.delete((await by_message(memory))["m4"].id, user_id="ann")
        assert [entry.source_ids for entry in await memory.get_all(user_id="ann")] == [("m1",)]
    for file in tmp_path.iterdir():
        assert not file.is_file() or b"Rex" not in file.read_bytes()


async def test_a_live_session_keeps_its_block_and_the_next_one_sees_what_sleep_did(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path, **{"block.max_tokens": 256, "compress.rate": 1.0})) as memory:
        await told(memory, PARIS, ROME)

        async def shown(session: str) -> str:
            said = [{"role": "user", "content": "Hello there"}]
            from lightmem_engine.types import Scope, TurnOptions

            turn = await memory.engine.open_turn(Scope("ann"), said, TurnOptions(session=session, top_k=0))
            await memory.engine.close_turn(turn.turn_id, "Hello", "complete")
            return "\n".join(str(message["content"]) for message in turn.messages)

        first = await shown("one")
        assert "Paris" in first
        await memory.sleep(user_id="ann")
        again = await shown("one")
        assert again[: len(first)].split("\n")[:4] == first.split("\n")[:4]
        later = await shown("two")
        assert "Rome" in later
        assert "live in Paris" not in later


async def test_idleness_starts_a_run(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path, **{"sleep.idle_seconds": 0.05})) as memory:
        await told(memory, PARIS, ROME)

        async def asleep() -> bool:
            runs = await memory.sleep_runs(user_id="ann")
            return sum(run.applied for run in runs) == 1 and all(run.state == "done" for run in runs)

        await eventually(asleep)
        assert {run.reason for run in await memory.sleep_runs()} == {"idle"}


async def test_enough_new_entries_start_a_run(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path, **{"sleep.after_entries": 2})) as memory:
        await told(memory, PARIS)
        assert await memory.sleep_runs() == []
        await told(memory, ROME)

        async def asleep() -> bool:
            return [(run.reason, run.applied) for run in await memory.sleep_runs()] == [("count", 1)]

        await eventually(asleep)


async def test_a_schedule_starts_runs(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path, **{"sleep.every_hours": 0.05 / 3600})) as memory:
        await told(memory, PARIS, ROME)

        async def asleep() -> bool:
            return sum(run.applied for run in await memory.sleep_runs()) == 1

        await eventually(asleep)
        assert {run.reason for run in await memory.sleep_runs()} == {"schedule"}


async def test_users_who_were_idle_before_a_restart_sleep_after_it(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await told(memory, PARIS, ROME)
    async with AsyncMemory(quick_config(tmp_path, **{"sleep.idle_seconds": 0.02})) as memory:

        async def asleep() -> bool:
            return sum(run.applied for run in await memory.sleep_runs()) == 1

        await eventually(asleep)


async def test_online_a_correction_works_as_soon_as_it_is_remembered(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path, **{"sleep.update": "online"})) as memory:
        await told(memory, PARIS, REX, ROME)
        assert (await by_message(memory))["m1"].state == "superseded"
        assert {run.reason for run in await memory.sleep_runs()} == {"online"}
        runs = len(await memory.sleep_runs())
        await memory.flush()
        assert len(await memory.sleep_runs()) == runs, "nothing new, no run"


@pytest.mark.parametrize("mode", ["rules", "llm"])
async def test_a_run_that_was_cut_off_goes_on_at_the_next_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    memory = AsyncMemory(quick_config(tmp_path, **{"sleep.mode": mode}))
    await memory.open()
    await told(memory, PARIS, ROME)
    held = asyncio.Event()

    async def never(*_: Any) -> Any:
        await held.wait()

    monkeypatch.setattr(Consolidator, "run", never)
    waiting = asyncio.create_task(memory.sleep(user_id="ann"))

    async def begun() -> bool:
        return [run.state for run in await memory.sleep_runs()] == ["running"]

    await eventually(begun)
    await memory.close()
    with pytest.raises(BackendUnavailable):
        await waiting
    monkeypatch.undo()
    # What the model was to decide is not decided by rules: such a run ends, and what it left is for the next.
    expected = ("done", 1, None) if mode == "rules" else ("stopped", 0, "sleep.mode is another one now")
    async with AsyncMemory(quick_config(tmp_path)) as memory:

        async def ended() -> bool:
            return [(run.state, run.applied, run.error) for run in await memory.sleep_runs()] == [expected]

        await eventually(ended)

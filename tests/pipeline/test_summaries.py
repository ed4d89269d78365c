"""Summaries: written by sleep, found beside entries, gone when what they tell of goes."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.memory import AsyncMemory
from lightmem_engine.types import MemoryEntry
from tests.support.memory import ScriptedModel, quick_config, use_model, user

TELLING = {
    "sleep.mode": "llm",
    "sleep.threshold": 0.99,
    "sleep.summaries": True,
    "sleep.summary_notes": 2,
    "extract.mode": "extractive",
    "compress.rate": 1.0,
    "lm.backend": "stub",
}
STORY = ("the kayak trip began", "the kayak sank", "a new boat came", "the boat is blue")


def telling(asked: str) -> str:
    """A summary that cites every note it was shown."""
    if "Decide:" in asked:
        return json.dumps({"decisions": []})
    numbers = [int(n) for n in re.findall(r"^(\d+) \[", asked, re.MULTILINE)]
    words = " ".join(re.findall(r"user: (\w+ \w+)", asked))
    return json.dumps({"summary": f"Summary of {words}.", "sources": numbers})


async def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: Any) -> tuple[AsyncMemory, ScriptedModel]:
    model = use_model(monkeypatch, telling)
    memory = AsyncMemory(quick_config(tmp_path, **(TELLING | options)))
    await memory.open()
    for day, text in enumerate(STORY, 1):
        said = user(text, id=f"m{day}", timestamp=f"2023-05-0{day}T10:00:00Z")
        await memory.add(said, user_id="ann", session_id="s", wait=True)
    return memory, model


async def summaries(memory: AsyncMemory) -> list[MemoryEntry]:
    return [entry for entry in await memory.get_all(user_id="ann") if entry.kind == "summary"]


async def test_a_night_tells_each_window_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, model = await told(tmp_path, monkeypatch)
    run = await memory.sleep(user_id="ann")
    assert (run.state, run.calls, run.applied) == ("done", 2, 2)
    first, second = sorted(await summaries(memory), key=lambda entry: entry.event_time)
    assert first.source_ids == ("m1", "m2")
    assert set(second.source_ids) == {"m1", "m2", "m3", "m4"}, "the second recalls the first"
    assert second.event_time.day == 4
    report = await memory.sleep_run(run.id)
    assert [change.action for change in report.changes] == ["summarise", "summarise"]
    assert (await memory.sleep(user_id="ann")).calls == 0
    assert len(model.asked) == 2
    await memory.close()


async def test_a_summary_is_found_with_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, _ = await told(tmp_path, monkeypatch)
    await memory.sleep(user_id="ann")
    kinds = {hit.kind for hit in await memory.search("Summary of the kayak", user_id="ann")}
    assert kinds == {"turn", "summary"}
    only = await memory.search("kayak", user_id="ann", filters={"kind": "summary"})
    assert {hit.kind for hit in only} == {"summary"}
    await memory.close()


async def test_rollback_takes_summaries_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, model = await told(tmp_path, monkeypatch)
    before = await memory.get_all(user_id="ann")
    run = await memory.sleep(user_id="ann")
    await memory.rollback(run.id)
    assert await memory.get_all(user_id="ann") == before
    assert (await memory.sleep(user_id="ann")).applied == 2
    assert len(model.asked) == 4
    await memory.close()


async def test_what_changed_is_told_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, _ = await told(tmp_path, monkeypatch)
    await memory.sleep(user_id="ann")
    entry = next(entry for entry in await memory.get_all(user_id="ann") if "blue" in entry.text)
    await memory.update(entry.id, user_id="ann", text="user: the boat is green")
    run = await memory.sleep(user_id="ann")
    assert [change.action for change in (await memory.sleep_run(run.id)).changes] == ["retire", "summarise"]
    states = [entry.state for entry in await summaries(memory)]
    assert sorted(states) == ["active", "active", "superseded"]
    await memory.rollback(run.id)
    assert [entry.state for entry in await summaries(memory)] == ["active", "active"]
    await memory.close()


async def test_deleting_an_entry_deletes_what_was_told_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, _ = await told(tmp_path, monkeypatch)
    await memory.sleep(user_id="ann")
    entry = next(entry for entry in await memory.get_all(user_id="ann") if "blue" in entry.text)
    await memory.delete(entry.id, user_id="ann")
    (left,) = await summaries(memory)
    assert left.source_ids == ("m1", "m2")
    assert {entry.source_ids for entry in await memory.get_all(user_id="ann")} == {
        ("m1",),
        ("m2",),
        ("m3",),
        ("m1", "m2"),
    }
    await memory.close()


@pytest.mark.parametrize(
    "answer",
    [
        "no json",
        json.dumps({"summary": " ", "sources": [1]}),
        json.dumps({"summary": "x", "sources": []}),
        json.dumps({"summary": "x", "sources": [99]}),
        json.dumps({"summary": "x", "sources": ["1"]}),
        json.dumps({"summary": {"text": "x"}, "sources": [1]}),
        json.dumps([1]),
    ],
)
async def test_a_summary_that_rests_on_nothing_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    memory, _ = await told(tmp_path, monkeypatch)
    model = use_model(monkeypatch, lambda asked: answer)
    await memory.close()
    async with AsyncMemory(quick_config(tmp_path, **TELLING)) as memory:
        run = await memory.sleep(user_id="ann")
        assert (run.state, run.applied, run.undecided, run.calls) == ("done", 0, 2, len(model.asked))
        assert await summaries(memory) == []


async def test_a_budget_ends_the_telling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, model = await told(tmp_path, monkeypatch, **{"runtime.max_background": 1})
    run = await memory.sleep(user_id="ann", max_calls=1)
    assert (run.state, run.calls, run.applied) == ("stopped", 1, 1)
    assert (await memory.sleep(user_id="ann")).calls == 1
    assert len(model.asked) == 2
    await memory.close()


async def test_an_import_is_not_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, model = await told(tmp_path / "one", monkeypatch)
    await memory.sleep(user_id="ann")
    lines = [chunk async for chunk in memory.export(user_id="ann")]
    await memory.close()
    async with AsyncMemory(quick_config(tmp_path / "two", **TELLING)) as other:
        await other.import_(lines)
        run = await other.sleep(user_id="ann")
        assert (run.calls, len(await summaries(other))) == (0, 2)
        assert [chunk async for chunk in other.export(user_id="ann")] == lines
    assert len(model.asked) == 2


async def test_erasure_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, _ = await told(tmp_path, monkeypatch)
    await memory.sleep(user_id="ann")
    await memory.delete_all(user_id="ann")
    assert await memory.get_all(user_id="ann") == []
    assert b"Summary of" not in (tmp_path / "memory.db").read_bytes()
    await memory.close()

"""Defects of the reference implementation in what it does offline, and that this engine does not have them.

As in `test_reference_defects.py`, each `row_n` shows the absence of defect n of the catalogue. Of row 13, the filters
are shown there, and what they broke here: the windows of summaries.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.memory import AsyncMemory
from lightmem_engine.sensory.memory import spoken
from lightmem_engine.types import Scope
from tests.support.memory import facts, quick_config, use_model, user

SLEEPY = {"sleep.mode": "llm", "sleep.threshold": 0.3, "extract.mode": "llm", "lm.backend": "stub"}


def decisions(*items: dict[str, Any]) -> str:
    return json.dumps({"decisions": list(items)})


async def test_row_9_two_facts_of_one_message_do_not_delete_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: equal times counted as newer, so two contradictory facts of one message each deleted the other."""

    def answer(asked: str) -> str:
        assert "Decide:" not in asked, "nothing is asked about facts of one breath"
        return facts((1, "Ann's parrot is called Zazu."), (1, "Ann's parrot is called Rio."))

    use_model(monkeypatch, answer)
    async with AsyncMemory(quick_config(tmp_path, **SLEEPY)) as memory:
        await memory.add(user("My parrot is called Zazu, no, Rio."), user_id="ann", wait=True)
        run = await memory.sleep(user_id="ann")
        assert (run.state, run.calls, run.applied) == ("done", 0, 0)
        assert [entry.state for entry in await memory.get_all(user_id="ann")] == ["active", "active"]


async def test_row_9_of_two_messages_of_one_moment_only_one_may_change_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: with equal times each was the other's source, and both were deleted."""
    asked: list[str] = []

    def answer(said: str) -> str:
        asked.append(said)
        return decisions(*({"entry": n, "action": "supersede", "by": 3 - n} for n in (1, 2)))

    use_model(monkeypatch, answer)
    async with AsyncMemory(quick_config(tmp_path, **(SLEEPY | {"extract.mode": "extractive"}))) as memory:
        same = [user(f"my parrot parrot is {name}", timestamp="2023-05-08T10:00:00Z") for name in ("Zazu", "Rio")]
        await memory.add(same[0], user_id="ann", session_id="one", wait=True)
        await memory.add(same[1], user_id="ann", session_id="two", wait=True)
        assert (await memory.sleep()).applied == 1
        assert sorted(entry.state for entry in await memory.get_all(user_id="ann")) == ["active", "superseded"]
        assert len(asked) == 1


async def _merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Any) -> tuple[AsyncMemory, list[str]]:
    """A memory of two notes about one thing, after a model that answered with this text for both of them."""
    model = use_model(monkeypatch, lambda asked: decisions({"entry": 1, "action": "update", "by": 2, "text": text}))
    memory = AsyncMemory(quick_config(tmp_path, **(SLEEPY | {"extract.mode": "extractive", "compress.rate": 1.0})))
    await memory.open()
    for day, content in ((1, "the kayak kayak kayak is red"), (2, "the kayak kayak kayak is long")):
        said = user(content, id=f"m{day}", timestamp=f"2023-05-0{day}T10:00:00Z")
        await memory.add(said, user_id="ann", session_id="s", wait=True)
    await memory.sleep(user_id="ann")
    return memory, model.asked


async def test_row_10_a_merged_memory_is_found_by_its_new_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: the text changed and the old vector stayed."""
    memory, _ = await _merged(tmp_path, monkeypatch, "the kayak is a red and long canoe")
    (found,) = [entry for entry in await memory.get_all(user_id="ann") if entry.state == "active"]
    assert (found.text, found.version) == ("user: the kayak is a red and long canoe", 2)
    docs, _ = await memory.engine._db.changes(Scope("ann"), 0)
    (doc,) = [doc for doc in docs if doc.state == "active" and doc.text == "the kayak is a red and long canoe"]
    own = (await memory.engine.embed([spoken("user", "the kayak is a red and long canoe")]))[0]
    assert doc.vector is not None
    assert float(doc.vector @ own) == pytest.approx(1.0, abs=1e-5)
    await memory.close()


@pytest.mark.parametrize("text", [{"memory": "red and long"}, ["red", "long"], 7, None, "   "])
async def test_row_10_what_is_no_text_is_not_stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: Any) -> None:
    """Defect: the new text could be an object, and was stored as one."""
    memory, _ = await _merged(tmp_path, monkeypatch, text)
    (run,) = await memory.sleep_runs()
    assert (run.state, run.applied, run.rejected) == ("done", 0, 1)
    assert [entry.version for entry in await memory.get_all(user_id="ann")] == [1, 1]
    await memory.close()


async def test_row_11_what_was_merged_changes_nothing_any_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: deleted ids stayed in the queues of others, and merged sources stayed beside the merged text."""
    memory, asked = await _merged(tmp_path, monkeypatch, "the kayak kayak kayak is red and long")
    assert [hit.text for hit in await memory.search("kayak", user_id="ann")] == [
        "user: the kayak kayak kayak is red and long"
    ]
    await memory.add(user("the kayak kayak kayak is old"), user_id="ann", session_id="s", wait=True)
    await memory.sleep(user_id="ann")
    assert "is long" not in asked[-1], "only what is there now is compared"
    assert "red and long" in asked[-1]
    await memory.close()


TELLING = SLEEPY | {
    "sleep.threshold": 0.99,
    "sleep.summaries": True,
    "sleep.summary_notes": 1,
    "extract.mode": "extractive",
    "compress.rate": 1.0,
}


def cites_all(asked: str) -> str:
    """A summary of every note shown; nothing to decide."""
    if "Decide:" in asked:
        return decisions()
    return json.dumps({"summary": "It was told.", "sources": list(range(1, len(_shown(asked)) + 1))})


def _shown(asked: str) -> list[str]:
    return re.findall(r"^\d+ \[.*?\] user: (.*)$", asked, re.MULTILINE)


async def _sail(memory: AsyncMemory, *minutes: int) -> None:
    """One message for each of these minutes of a day, named by it, all much alike."""
    for minute in minutes:
        said = user(f"sailing sailing {minute}", timestamp=f"2023-05-08T{minute // 60:02}:{minute % 60:02}:00Z")
        await memory.add(said, user_id="ann", session_id="s", wait=True)


async def test_row_13_windows_end_where_they_should(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: bounds of time were dropped from filters, so that each window was the whole memory."""
    model = use_model(monkeypatch, cites_all)
    async with AsyncMemory(quick_config(tmp_path, **(TELLING | {"sleep.summary_seeds": 0}))) as memory:
        await _sail(memory, 0, 60, 61, 200)
        assert (await memory.sleep(user_id="ann")).applied == 3
        told = sorted([_shown(asked) for asked in model.asked])
        assert told == [["sailing sailing 0", "sailing sailing 60"], ["sailing sailing 200"], ["sailing sailing 61"]]


async def test_row_14_a_window_does_not_recall_itself_nor_what_came_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Defect: what was to be left out of a search for seeds was not; looking into the past alone raised an error."""
    model = use_model(monkeypatch, cites_all)
    async with AsyncMemory(quick_config(tmp_path, **TELLING)) as memory:
        await _sail(memory, 0, 100, 200)
        assert (await memory.sleep(user_id="ann")).applied == 3
        told = sorted((_shown(asked) for asked in model.asked), key=len)
        assert told == [[f"sailing sailing {minute}" for minute in (0, 100, 200)[:count]] for count in (1, 2, 3)]


async def test_row_14_nothing_is_compared_with_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: the ids to leave out of a search were matched against a field that does not exist."""
    model = use_model(monkeypatch, lambda asked: decisions())
    async with AsyncMemory(quick_config(tmp_path, **(SLEEPY | {"extract.mode": "extractive"}))) as memory:
        for name in ("ann", "bob"):
            await memory.add(user("the kayak kayak is red"), user_id=name, wait=True)
        assert (await memory.sleep()).calls == 0
        assert model.asked == []


async def test_row_21_without_a_model_there_is_still_sleep(tmp_path: Path) -> None:
    """Defect: what was not configured ended in an AttributeError."""
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add(user("the kayak is red"), user_id="ann", wait=True)
        await memory.add(user("The kayak is red!"), user_id="ann", wait=True)
        run = await memory.sleep()
        assert (run.state, run.mode, run.applied, run.error) == ("done", "rules", 2, None)


async def test_row_21_without_a_model_nothing_is_summarised_and_nothing_breaks(tmp_path: Path) -> None:
    """Defect: without the second store, a summary ended in an AttributeError."""
    config = quick_config(tmp_path, **{"sleep.summaries": True, "sleep.summary_notes": 1})
    async with AsyncMemory(config) as memory:
        await _sail(memory, 0, 100)
        run = await memory.sleep()
        assert (run.state, run.mode, run.calls, run.error) == ("done", "rules", 0, None)
        assert {entry.kind for entry in await memory.get_all(user_id="ann")} == {"turn"}


async def test_row_22_one_call_gives_facts_relations_and_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: event mode asked twice and counted once."""
    answer = {
        "facts": [{"source": 1, "fact": "Ann met Bob yesterday."}],
        "relations": [{"source": 1, "subject": "Ann", "relation": "met", "object": "Bob"}],
        "entities": [{"source": 1, "name": "Oslo", "type": "place"}],
    }
    model = use_model(monkeypatch, lambda asked: json.dumps(answer))
    options = SLEEPY | {"extract.form": "event"}
    async with AsyncMemory(quick_config(tmp_path, **options)) as memory:
        await memory.add(user("I met Bob yesterday.", timestamp="2023-05-08T10:00:00Z"), user_id="ann", wait=True)
        usage = (await memory.stats(user_id="ann"))["usage"]["extract"]
        assert usage["calls"] == len(model.asked) == 1
        assert (usage["prompt_tokens"], usage["completion_tokens"]) == (10, 5)
        fact, relation = sorted(await memory.get_all(user_id="ann"), key=lambda entry: entry.kind)
        assert (fact.kind, relation.kind, relation.text) == ("fact", "relation", "Ann met Bob")
        assert fact.event_time == relation.event_time
        assert "7 May 2023" in fact.text


async def test_row_22_summaries_are_counted_with_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: calls were missing from the statistics."""
    model = use_model(monkeypatch, lambda asked: cites_all(asked) if "cannot be used" in asked else "no json")
    async with AsyncMemory(quick_config(tmp_path, **TELLING)) as memory:
        await _sail(memory, 0)
        run = await memory.sleep(user_id="ann")
        usage = (await memory.stats(user_id="ann"))["usage"]["sleep"]
        assert run.calls == usage["calls"] == len(model.asked) == 2
        assert (run.prompt_tokens, usage["prompt_tokens"]) == (20, 20)


async def test_row_22_every_call_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Defect: two calls counted as one, in calls and in tokens."""
    model = use_model(monkeypatch, lambda asked: decisions() if "cannot be used" in asked else "no json")
    async with AsyncMemory(quick_config(tmp_path, **(SLEEPY | {"extract.mode": "extractive"}))) as memory:
        for day, content in ((1, "the kayak kayak is red"), (2, "the kayak kayak is long")):
            said = user(content, timestamp=f"2023-05-0{day}T10:00:00Z")
            await memory.add(said, user_id="ann", session_id="s", wait=True)
        run = await memory.sleep(user_id="ann")
        usage = (await memory.stats(user_id="ann"))["usage"]["sleep"]
        assert run.calls == usage["calls"] == len(model.asked) == 2
        assert (run.prompt_tokens, usage["prompt_tokens"]) == (20, 20)
        assert (run.completion_tokens, usage["completion_tokens"]) == (10, 10)

"""What was folded into another memory still leads to it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lightmem_engine.memory import AsyncMemory
from lightmem_engine.types import Hit
from tests.support.memory import quick_config, use_model, user

SLEEPY = {"sleep.mode": "llm", "sleep.threshold": 0.3, "lm.backend": "stub", "extract.mode": "extractive"}
RED, LONG = "the kayak kayak kayak is scarlet", "the kayak kayak kayak is enormous"
BOTH = "the kayak is nice"


async def merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncMemory:
    """A memory where the second note was merged into the first, in words of which neither had all."""
    update = {"decisions": [{"entry": 1, "action": "update", "by": 2, "text": BOTH}]}
    use_model(monkeypatch, lambda asked: json.dumps(update))
    memory = AsyncMemory(quick_config(tmp_path, **(SLEEPY | {"compress.rate": 1.0})))
    await memory.open()
    for day, content in ((1, RED), (2, LONG)):
        await memory.add(user(content, timestamp=f"2023-05-0{day}T10:00:00Z"), user_id="ann", session_id="s", wait=True)
    for number in range(8):
        await memory.add(user(f"remark {number} about nothing"), user_id="ann", session_id="s", wait=True)
    assert (await memory.sleep(user_id="ann")).applied == 2
    return memory


async def best(memory: AsyncMemory, query: str) -> Hit:
    return (await memory.search(query, user_id="ann", top_k=1))[0]


@pytest.mark.parametrize("query", ["scarlet", "enormous", "nice kayak"])
async def test_the_words_of_both_and_of_the_merger_lead_to_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    memory = await merged(tmp_path, monkeypatch)
    hits = await memory.search(query, user_id="ann", top_k=3)
    assert hits[0].text == f"user: {BOTH}"
    assert len(hits[0].source_ids) == 2
    assert len({hit.id for hit in hits}) == 3
    await memory.close()
    async with AsyncMemory(quick_config(tmp_path)) as again:  # an index built anew finds the same
        assert (await best(again, query)).text == f"user: {BOTH}"


async def test_once_somebody_says_otherwise_they_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = await merged(tmp_path, monkeypatch)
    hit = await best(memory, "scarlet")
    await memory.update(hit.id, user_id="ann", text="user: the boat is gone")
    for query in ("scarlet", "enormous"):
        hits = await memory.search(query, user_id="ann", top_k=20)
        assert all(word not in hit.text for hit in hits for word in ("scarlet", "enormous"))
        assert "gone" not in hits[0].text
    assert "gone" in (await best(memory, "boat gone")).text
    await memory.close()


async def test_a_rollback_shows_each_by_itself_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = await merged(tmp_path, monkeypatch)
    assert (await best(memory, "enormous")).text == f"user: {BOTH}"
    await memory.rollback((await memory.sleep_runs())[0].id)
    assert (await best(memory, "enormous")).text == f"user: {LONG}"
    assert (await best(memory, "scarlet")).text == f"user: {RED}"
    await memory.close()


async def test_what_was_folded_twice_leads_to_the_last(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        for number in range(3):
            await memory.add(user("The parrot is called Zazu."), user_id="ann", session_id=f"s{number}", wait=True)
            await memory.sleep(user_id="ann")
        await memory.add(user("Nothing else."), user_id="ann", session_id="t", wait=True)
        hits = await memory.search("parrot", user_id="ann")
        assert len(hits) == 2
        assert len(hits[0].source_ids) == 3


async def test_deleting_the_survivor_forgets_the_folded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = await merged(tmp_path, monkeypatch)
    await memory.delete((await best(memory, "scarlet")).id, user_id="ann")
    for query in ("scarlet", "enormous"):
        assert all("remark" in hit.text for hit in await memory.search(query, user_id="ann"))
    await memory.close()

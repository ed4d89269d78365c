"""What was said a moment ago is recalled as well as what is long known: the real engine with its packaged encoder."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from lightmem_engine.config import EngineConfig
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import Hit, Scope
from tests.support.memory import quick_config, user

FACTS = {
    "My sister Anna moved to Lisbon in March and works as a nurse.": "Where does my sister live?",
    "I am allergic to peanuts, so please never suggest satay.": "Which food am I allergic to?",
    "Our dog Bruno is a three year old beagle.": "What breed is our dog?",
    "I bought a red Canyon bicycle for 2400 euros.": "How much did the bicycle cost?",
    "My dentist appointment is on 14 June at 9:30.": "When do I see the dentist?",
}


async def _never(self: SenseStage, scopes: Sequence[Scope]) -> dict[Scope, bool]:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.mark.parametrize("known", [0, 2], ids=["all fresh", "some settled"])
async def test_facts_are_found_before_any_stage_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int
) -> None:
    config = EngineConfig(data_dir=str(tmp_path))
    told: dict[str, str] = {}

    async def tell(memory: AsyncMemory, facts: Sequence[str]) -> None:
        for fact in facts:
            told[fact] = (await memory.add({"role": "user", "content": fact}, user_id="ann"))[0]
            await memory.add({"role": "assistant", "content": f"Thank you for telling me: {fact}"}, user_id="ann")

    async with AsyncMemory(config) as memory:
        await tell(memory, list(FACTS)[:known])
        await memory.flush(user_id="ann")
    monkeypatch.setattr(SenseStage, "run", _never)
    async with AsyncMemory(config) as memory:
        await tell(memory, list(FACTS)[known:])
        for fact, question in FACTS.items():
            best = (await memory.search(question, user_id="ann", top_k=3))[0]
            assert best.source_ids == (told[fact],), (question, best)
        states = {hit.state for hit in await memory.search("everything", user_id="ann", top_k=50)}
        assert states == ({"pending", "active"} if known else {"pending"})


@pytest.mark.parametrize("top_k", [1, 10])
async def test_a_message_that_becomes_an_entry_during_a_search_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top_k: int
) -> None:
    plain = MemoryDB.hydrate

    async def then_extracted(self: MemoryDB, scope: Scope, refs: Iterable[str]) -> dict[str, Hit]:
        monkeypatch.setattr(MemoryDB, "hydrate", plain)
        await memory.flush(user_id="ann")  # between the ranking and the reading of what was ranked
        return await plain(self, scope, refs)

    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add(user("The boat leaves at nine.", id="b"), user_id="ann", wait=True)
        await memory.add(user("The parrot is called Zazu.", id="p"), user_id="ann")
        monkeypatch.setattr(MemoryDB, "hydrate", then_extracted)
        hits = await memory.search("What is the parrot called?", user_id="ann", top_k=top_k)
        assert hits[0].source_ids == ("p",)
        assert hits[0].state == "active"
        assert len(hits) == min(top_k, 2)

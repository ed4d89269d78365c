"""Edges live and die with the entries that say so."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lightmem_engine.memory import AsyncMemory
from lightmem_engine.mentions import MENTIONS
from lightmem_engine.types import MemoryEntry
from tests.stores.test_schema import _version_1
from tests.support.memory import quick_config, user

Edge = tuple[str, str, str, str]


def edges(directory: Path, who: str = "ann") -> set[Edge]:
    """(subject, relation, object, state) of a user, in every version."""
    connection = sqlite3.connect(directory / "memory.db")
    try:
        return set(
            connection.execute("SELECT subject, relation, object, state FROM edge WHERE user = ?", (who,)).fetchall()
        )
    finally:
        connection.close()


@pytest.fixture
async def memory(tmp_path: Path) -> AsyncIterator[AsyncMemory]:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        yield memory


async def _told(memory: AsyncMemory, text: str, who: str = "ann") -> MemoryEntry:
    await memory.add([user(text)], user_id=who, wait=True)
    return (await memory.get_all(user_id=who))[-1]


async def test_an_edit_closes_old_edges_and_opens_new_ones(memory: AsyncMemory, tmp_path: Path) -> None:
    entry = await _told(memory, "I live in Bergen.")
    assert ("user", "home", "bergen", "active") in edges(tmp_path)
    await memory.update(entry.id, user_id="ann", text="user: I live in Oslo.")
    found = edges(tmp_path)
    assert ("user", "home", "bergen", "superseded") in found
    assert ("user", "home", "oslo", "active") in found
    assert ("user", "home", "bergen", "active") not in found


async def test_deleting_an_entry_takes_its_edges(memory: AsyncMemory, tmp_path: Path) -> None:
    entry = await _told(memory, "I live in Bergen.")
    await memory.delete(entry.id, user_id="ann")
    assert edges(tmp_path) == set()


async def test_erasing_a_user_leaves_the_edges_of_others(memory: AsyncMemory, tmp_path: Path) -> None:
    await _told(memory, "I live in Bergen.")
    await _told(memory, "I live in Oslo.", "bob")
    await memory.delete_all(user_id="ann")
    assert edges(tmp_path) == set()
    assert ("user", "home", "oslo", "active") in edges(tmp_path, "bob")


async def test_sleep_closes_the_edges_of_what_it_supersedes_and_rollback_opens_them(
    memory: AsyncMemory, tmp_path: Path
) -> None:
    await _told(memory, "I live in Bergen.")
    await _told(memory, "Actually, I live in Oslo now.")
    before = edges(tmp_path)
    run = await memory.sleep(user_id="ann")
    assert run.applied == 1
    assert ("user", "home", "bergen", "active") not in edges(tmp_path)
    assert ("user", "home", "oslo", "active") in edges(tmp_path)
    await memory.rollback(run.id)
    assert edges(tmp_path) == before


async def test_an_import_has_the_same_edges(memory: AsyncMemory, tmp_path: Path) -> None:
    await _told(memory, "I live in Bergen, and Rex is my dog.")
    lines = [chunk async for chunk in memory.export(user_id="ann")]
    async with AsyncMemory(quick_config(tmp_path / "other")) as other:
        await other.import_(lines)
        assert edges(tmp_path / "other") == edges(tmp_path) != set()


async def test_a_file_from_before_the_graph_gets_its_edges(tmp_path: Path) -> None:
    _version_1(tmp_path / "memory.db")
    async with AsyncMemory(quick_config(tmp_path)):
        assert ("user", MENTIONS, "zazu", "active") in edges(tmp_path)


async def test_a_chain_that_shares_no_word_with_the_question_is_found(memory: AsyncMemory) -> None:
    for text in (
        "I hear that Maria works at Initech.",
        "The weather was grey all day.",
        "People say that Initech rents rooms from Norrland.",
        "My cousin thinks that Norrland moved to Bergen.",
        *(f"Number {n} is a dull remark about nothing much." for n in range(30)),
    ):
        await memory.add([user(text)], user_id="ann", session_id=text, wait=True)
    hits = await memory.search("How are Maria and Bergen related?", user_id="ann", top_k=3)
    assert {"Maria", "rents", "cousin"} <= {word for hit in hits for word in hit.text.split()}


async def test_what_changed_since_a_month(memory: AsyncMemory) -> None:
    for month, text in ((1, "Rex the dog is fat"), (2, "Rex is fatter"), (4, "Rex got thin"), (5, "Rex likes fish")):
        stamp = f"2024-{month:02}-10T10:00:00Z"
        await memory.add([user(text)], user_id="ann", session_id=stamp, timestamp=stamp, wait=True)
    hits = await memory.search("What changed about Rex since March?", user_id="ann", top_k=2)
    assert {hit.event_time.month for hit in hits} == {4, 5}

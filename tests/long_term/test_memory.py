"""Search as a whole: fresh, honest about deletions, within budgets and time."""

from __future__ import annotations

import asyncio
import threading
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from lightmem_engine.config import EngineConfig
from lightmem_engine.config import replace as configure
from lightmem_engine.errors import BackendUnavailable, InvalidInput, ModelError
from lightmem_engine.long_term.memory import LongTermMemory, reader_line
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.text import num_tokens, stem, terms
from lightmem_engine.types import Hit, IndexDoc, Scope, State, Vectors
from tests.long_term.feed import MemoryFeed

DIM = 256
START = datetime(2023, 5, 8, 12, tzinfo=UTC)
ANN, BOB = Scope("ann"), Scope("bob")


@dataclass
class FixedClock:
    time: datetime = START + timedelta(days=365)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return 0.0


def hash_words(texts: Sequence[str]) -> Vectors:
    """Bags of hashed words, unit length: equal words, equal vectors."""
    rows = np.full((len(texts), DIM), 1e-3, np.float32)
    for row, text in zip(rows, texts, strict=True):
        for term in terms(text):
            row[zlib.crc32(term.encode()) % DIM] += 1
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


async def embed(texts: Sequence[str]) -> Vectors:
    return hash_words(texts)


class World:
    """A memory over an in-memory feed, and short ways to fill it."""

    def __init__(self, **options: Any) -> None:
        self.feed = MemoryFeed()
        self.clock = FixedClock()
        self.embedded: list[str] = []
        config = configure(EngineConfig(), **options)
        self.memory = LongTermMemory(self.feed, lambda: UserIndex(DIM), self._embed, config, self.clock)

    async def _embed(self, texts: Sequence[str]) -> Vectors:
        self.embedded += texts
        return hash_words(texts)

    def add(self, number: int, text: str, scope: Scope = ANN, state: State = "active", **changes: Any) -> None:
        ref = changes.pop("ref", f"{scope.user}{number}")
        doc = IndexDoc(
            "put",
            f"m{number}.{changes.pop('piece', 0)}",
            ref,
            session="s",
            position=(number, 0),
            state=state,
            text=text,
            vector=hash_words([text])[0] if state != "pending" else None,
            event_time=START + timedelta(days=number),
            recorded_at=START + timedelta(days=number),
        )
        doc = replace(doc, **changes)
        assert doc.event_time is not None
        hit = Hit(ref, text, 0.0, doc.kind, (f"src{number}",), doc.event_time, doc.event_time, doc.state)
        self.feed.put(scope, doc, hit)

    async def find(self, query: str, scope: Scope = ANN, **options: Any) -> list[str]:
        return [hit.text for hit in await self.memory.search(scope, query, **options)]


@pytest.fixture
def world() -> World:
    world = World()
    for number, text in enumerate(["I bought a red kayak", "The weather is dull", "My sister lives in Oslo"], 1):
        world.add(number, text)
    return world


@pytest.mark.parametrize("strategy", ["embedding", "context", "hybrid"])
async def test_finds_the_right_memory_first(world: World, strategy: Any) -> None:
    hits = await world.memory.search(ANN, "Which kayak did I buy, the red one?", top_k=2, strategy=strategy)
    assert hits[0].text == "I bought a red kayak"
    assert hits[0].source_ids == ("src1",)
    assert hits[0].score > hits[1].score
    assert len(hits) == 2


async def test_the_context_strategy_embeds_nothing() -> None:
    world = World(**{"search.index_strategy": "context"})
    world.add(1, "kayak")
    assert await world.find("kayak") == ["kayak"]
    assert world.embedded == []


async def test_users_are_apart(world: World) -> None:
    world.add(1, "Bob owns a kayak", scope=BOB)
    assert await world.find("kayak", BOB) == ["Bob owns a kayak"]
    assert await world.find("kayak", Scope("ann", tenant="other")) == []
    assert world.embedded == ["kayak"]  # an empty memory costs no embedding


async def test_a_pending_message_is_found_at_once(world: World) -> None:
    assert "zebra" not in " ".join(await world.find("zebra"))
    world.add(9, "I saw a zebra", state="pending")
    assert (await world.find("zebra", top_k=1, strategy="embedding")) == ["I saw a zebra"]
    assert (await world.find("zebra", top_k=1)) == ["I saw a zebra"]


async def test_pending_pieces_of_one_message_are_one_hit(world: World) -> None:
    world.add(9, "zebra one", state="pending", ref="message")
    world.add(9, "zebra two", state="pending", ref="message", piece=1)
    assert len([t for t in await world.find("zebra") if "zebra" in t]) == 1


async def test_what_was_deleted_is_never_returned_and_is_replaced() -> None:
    world = World()
    for number in range(1, 60):
        world.add(number, f"kayak trip {number}")
    assert len(await world.find("kayak trip", top_k=5)) == 5
    best = await world.memory.search(ANN, "kayak trip", top_k=40)
    for hit in best:  # the store knows, the index was never told
        world.feed.delete(ANN, hit.id)
    left = await world.memory.search(ANN, "kayak trip", top_k=10)
    assert len(left) == 10
    assert not {hit.id for hit in left} & {hit.id for hit in best}


async def test_a_hit_superseded_behind_the_index_is_not_current(world: World) -> None:
    await world.find("kayak")
    hit = world.feed.hits[ANN, "ann1"]
    world.feed.hits[ANN, "ann1"] = replace(hit, state="superseded")
    assert "I bought a red kayak" not in await world.find("kayak")


@pytest.mark.parametrize("state", ["superseded", "archived", "expired"])
async def test_by_default_only_what_is_current(world: World, state: State) -> None:
    world.add(1, "I bought a red kayak", state=state)
    assert "I bought a red kayak" not in await world.find("kayak")


async def test_as_of_goes_back_in_event_time() -> None:
    world = World()
    moved = START + timedelta(days=100)
    world.add(1, "I live in Oslo", state="superseded", valid_to=moved)
    world.add(2, "I live in Rome", event_time=moved)
    world.add(3, "I live in Atlantis", state="superseded")  # withdrawn: it was never true
    assert await world.find("where do I live") == ["I live in Rome"]
    assert await world.find("where do I live", as_of=START + timedelta(days=50)) == ["I live in Oslo"]
    assert await world.find("where do I live", as_of=moved) == ["I live in Rome"]
    assert await world.find("where do I live", as_of=START) == []


async def test_what_ended_is_over(world: World) -> None:
    world.add(4, "kayak rental contract", valid_to=START + timedelta(days=10))
    assert "kayak rental contract" not in await world.find("kayak")
    world.clock.time = START + timedelta(days=9)
    assert "kayak rental contract" in await world.find("kayak")


async def test_filters_apply_before_the_cut() -> None:
    world = World()
    for number in range(1, 101):
        world.add(number, f"kayak kayak {number}")
    world.add(101, "an unrelated remark", tags=("rare",), metadata={"city": "Rome"})
    assert await world.find("kayak", top_k=1, filters={"tags": "rare"}) == ["an unrelated remark"]
    assert await world.find("kayak", top_k=1, filters={"city": "Rome"}) == ["an unrelated remark"]
    assert await world.find("kayak", filters={"city": "Oslo"}) == []


async def test_the_token_budget_counts_rendered_lines(world: World) -> None:
    lines = [reader_line(hit) for hit in await world.memory.search(ANN, "kayak Oslo")]
    costs = [num_tokens(line) for line in lines]
    assert lines[0].startswith("[9 May 2023] ") or lines[0].startswith("[11 May 2023] ")
    assert len(await world.find("kayak Oslo", max_tokens=sum(costs))) == 3
    assert len(await world.find("kayak Oslo", max_tokens=sum(costs) - 1)) == 2
    assert len(await world.find("kayak Oslo", max_tokens=costs[0])) == 1
    assert await world.find("kayak Oslo", max_tokens=1) == []


async def test_an_entry_beyond_the_whole_budget_is_passed_over(world: World) -> None:
    world.add(5, "kayak " * 300)
    assert (await world.find("kayak", max_tokens=100))[0] == "I bought a red kayak"


@pytest.mark.parametrize(
    ("query", "options", "message"),
    [
        ("", {}, "non-empty"),
        (" \n", {}, "non-empty"),
        (7, {}, "non-empty"),
        ("x" * 32_001, {}, "32001 characters"),
        ("x", {"top_k": 0}, "top_k"),
        ("x", {"top_k": True}, "top_k"),
        ("x", {"top_k": 10**9}, "top_k"),
        ("x", {"max_tokens": -1}, "max_tokens"),
        ("x", {"as_of": datetime(2023, 5, 8)}, "time zone"),
        ("x", {"as_of": "2023-05-08"}, "time zone"),
        ("x", {"filters": {"kind": "gossip"}}, "no such kind"),
    ],
)
async def test_bad_requests(world: World, query: Any, options: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        await world.memory.search(ANN, query, **options)


async def test_indexes_are_cached_least_recently_used_first() -> None:
    world = World(**{"runtime.cached_users": 2})
    for user in ("a", "b", "a", "c"):
        world.add(1, "kayak", scope=Scope(user))
        await world.find("kayak", Scope(user))
    assert len(world.memory) == 2
    assert await world.find("kayak", Scope("b")) == ["kayak"]
    world.memory.forget(Scope("b"))
    world.memory.forget(Scope("nobody"))
    assert len(world.memory) == 1


async def test_forgetting_a_user_leaves_no_word_behind(world: World) -> None:
    await world.find("kayak")
    world.memory.forget(ANN)
    assert stem.cache_info().currsize == 0
    assert (await world.find("kayak", top_k=1)) == ["I bought a red kayak"]


async def test_many_searches_of_one_user_share_one_index() -> None:
    world = World()
    for number in range(1, 300):
        world.add(number, f"kayak trip {number}")
    found = await asyncio.gather(*(world.find("kayak", top_k=3) for _ in range(20)))
    assert all(hits == found[0] for hits in found)
    assert len(world.memory) == 1


async def test_a_failed_catch_up_starts_over(world: World) -> None:
    await world.find("kayak")
    world.add(7, "zebra", vector=np.ones(3, np.float32))
    with pytest.raises(InvalidInput, match="dimension"):
        await world.find("zebra")
    world.add(7, "zebra")
    assert (await world.find("zebra", top_k=1)) == ["zebra"]


async def test_a_cancelled_search_leaves_the_index_to_its_thread() -> None:
    """The lock is held until the thread has left, so the next search never meets a half-made index."""
    entered, leave = threading.Event(), threading.Event()

    class SlowIndex(UserIndex):
        def apply(self, docs: Any, seq: int) -> None:
            entered.set()
            leave.wait(10)
            super().apply(docs, seq)

    feed, world = MemoryFeed(), World()
    world.feed = feed
    for number in range(1, 200):
        world.add(number, f"kayak {number}")
    indexes = iter([SlowIndex(DIM), UserIndex(DIM)])
    memory = LongTermMemory(feed, lambda: next(indexes), embed, EngineConfig(), FixedClock())
    task = asyncio.create_task(memory.search(ANN, "kayak"))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    second = asyncio.create_task(memory.search(ANN, "kayak", top_k=3))
    await asyncio.sleep(0.05)
    assert not task.done()
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert len(await second) == 3


async def test_the_loop_stays_free_while_a_large_memory_is_searched() -> None:
    world = World()
    for number in range(1, 2500):
        world.add(number, f"kayak trip {number}")
    threads: set[int] = set()

    class WatchedIndex(UserIndex):
        def lexical(self, terms: Sequence[str]) -> Any:
            threads.add(threading.get_ident())
            return super().lexical(terms)

    memory = LongTermMemory(world.feed, lambda: WatchedIndex(DIM), embed, EngineConfig(), FixedClock())
    assert len(await memory.search(ANN, "kayak trip")) == 10
    assert threads
    assert threading.get_ident() not in threads


async def test_words_looked_up_before_a_change_are_looked_up_again() -> None:
    """In a large memory words are looked up while the question is embedded; the memory may grow meanwhile."""
    world = World()
    for number in range(1, 2500):
        world.add(number, f"kayak trip {number}")

    async def slow(texts: Sequence[str]) -> Vectors:
        world.add(9000, "a zebra crossed the road")
        assert await world.memory.search(ANN, "kayak", strategy="context")
        return hash_words(texts)

    world.memory = LongTermMemory(world.feed, lambda: UserIndex(DIM), slow, EngineConfig(), FixedClock())
    assert (await world.find("zebra crossed", top_k=1)) == ["a zebra crossed the road"]


async def test_a_failing_embedder_fails_its_caller_only() -> None:
    world = World()
    for number in range(1, 2500):
        world.add(number, f"kayak trip {number}")

    async def broken(texts: Sequence[str]) -> Vectors:
        raise BackendUnavailable("no device")

    memory = LongTermMemory(world.feed, lambda: UserIndex(DIM), broken, EngineConfig(), FixedClock())
    with pytest.raises(BackendUnavailable):
        await memory.search(ANN, "kayak")
    assert len(await memory.search(ANN, "kayak", strategy="context")) == 10


FACTS = [
    "I bought a red kayak in Oslo",
    "The weather is dull today",
    "My sister lives in Oslo by the water",
    "My dog sleeps by the door",
    "I bought a boat with my sister",
]


@pytest.mark.parametrize("strategy", ["embedding", "hybrid"])
async def test_what_has_no_vector_yet_ranks_as_if_it_had(strategy: Any) -> None:
    """Compared by words alone, a text without a vector would win or lose by a measure of its own."""
    settled, mixed, fresh = World(), World(), World()
    for number, text in enumerate(FACTS, 1):
        settled.add(number, text)
        mixed.add(number, text, state="active" if number % 2 else "pending")
        fresh.add(number, text, state="pending")
    for query in ("Where does my sister live?", "Which boat did I buy?", "Where does the dog sleep?"):
        expected = await settled.memory.search(ANN, query, strategy=strategy)
        for world in (mixed, fresh):
            hits = await world.memory.search(ANN, query, strategy=strategy)
            assert [hit.text for hit in hits] == [hit.text for hit in expected]
            assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)


async def test_texts_without_a_vector_are_embedded_once_as_they_are_spoken() -> None:
    world = World()
    world.memory = LongTermMemory(
        world.feed, lambda: UserIndex(DIM), world._embed, EngineConfig(), world.clock, spoken="{} said, {}".format
    )
    world.add(1, "I saw a zebra", state="pending", speaker="Ann")
    await world.find("zebra")
    await world.find("zebra again")
    assert world.embedded == ["zebra", "Ann said, I saw a zebra", "zebra again"]
    world.add(2, "context needs no vector", state="pending")
    await world.find("zebra", strategy="context")
    assert len(world.embedded) == 3


async def test_the_embedding_of_fresh_texts_is_bounded() -> None:
    world = World()
    for number in range(1, 200):
        world.add(number, "kayak " * 400, state="pending")
    await world.find("kayak")
    assert len(world.embedded) == 1 + 16
    assert max(map(len, world.embedded)) == 1000


async def test_a_text_that_no_model_can_read_does_not_spoil_the_question() -> None:
    world = World()
    world.add(1, "I saw a zebra")
    world.add(2, "poison about a zebra", state="pending")
    asked: list[list[str]] = []

    async def fussy(texts: Sequence[str]) -> Vectors:
        asked.append(list(texts))
        if any("poison" in text for text in texts):
            raise ModelError("embed: ValueError: cannot read this")
        return hash_words(texts)

    world.memory = LongTermMemory(world.feed, lambda: UserIndex(DIM), fussy, EngineConfig(), world.clock)
    assert set(await world.find("zebra")) == {"I saw a zebra", "poison about a zebra"}
    assert set(await world.find("zebra")) == {"I saw a zebra", "poison about a zebra"}
    assert asked == [["zebra", "poison about a zebra"], ["zebra"], ["zebra"]]


async def test_recall_in_a_hurry_goes_by_words_when_meaning_is_late(world: World) -> None:
    async def never(texts: Sequence[str]) -> Vectors:
        await asyncio.Event().wait()
        raise AssertionError

    in_time, is_complete = await world.memory.recall(ANN, "red kayak", top_k=1, filters=None, patience=60)
    assert is_complete
    hurried = World()
    hurried.feed = world.feed
    hurried.memory = LongTermMemory(world.feed, lambda: UserIndex(DIM), never, EngineConfig(), world.clock)
    by_words, is_complete = await hurried.memory.recall(ANN, "red kayak", top_k=1, filters=None, patience=0.01)
    assert not is_complete
    assert [hit.id for hit in by_words] == [hit.id for hit in in_time]
    await hurried.memory.aclose()

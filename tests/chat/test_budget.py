"""Recall under a time budget: words when meaning is late, the block when words are late, and the chat goes on."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightmem_engine.assemble import build
from lightmem_engine.chat import recall
from lightmem_engine.chat.budget import CPU_FLOOR_MS, CUDA_MS, Deadline, automatic
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import BackendUnavailable, InvalidInput, StoreError
from lightmem_engine.long_term.memory import LongTermMemory
from lightmem_engine.long_term.state import take_in
from lightmem_engine.models.stub_encoder import StubEmbedder
from lightmem_engine.pipeline.calls import EMBED
from lightmem_engine.stores.chats import Chats
from lightmem_engine.types import Message, TurnOptions, Vectors
from tests.chat.talk import ANN, Talk, kept
from tests.support.memory import eventually, quick_config, user

LONG_MS = 60_000.0
QUESTION = "What is my parrot called?"


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    engine = await build(quick_config(tmp_path, **{"chat.budget_ms": LONG_MS, "compress.rate": 1.0}))
    await engine.add(ANN, [Message("user", "My boat is called Ida.")], wait=True)
    await Talk(engine, session="first").say("hello")  # the user's block knows of the boat
    await engine.add(ANN, [Message("user", "My parrot is called Zazu.")], wait=True)
    talk = Talk(engine, session="first")
    talk.history = [user("hello"), {"role": "assistant", "content": "I hear: hello"}]
    yield engine
    await engine.aclose()


def _talk(engine: LocalEngine, question: str = QUESTION) -> Talk:
    talk = Talk(engine, session="first")
    talk.history = [user("hello"), {"role": "assistant", "content": "I hear: hello"}, user(question)]
    return talk


async def test_in_time_nothing_is_degraded(engine: LocalEngine) -> None:
    turn = await _talk(engine).open()
    assert turn.degraded is None
    assert "Ida" in turn.messages[0]["content"]
    assert "Zazu" in turn.messages[-1]["content"]


async def test_a_slow_embedder_leaves_words(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recall, "EMBEDDING_SHARE", 1e-4)  # of a minute: the search itself has all the time it needs
    release = threading.Event()

    def encode(texts: Sequence[str]) -> Vectors:
        release.wait(20)
        return StubEmbedder().encode(texts)

    engine._worker.add_lane(EMBED, encode)
    turn = await _talk(engine).open()
    assert turn.degraded == "lexical_only"
    assert "Zazu" in turn.messages[-1]["content"]
    release.set()


@pytest.mark.parametrize("error", [BackendUnavailable("gone"), ValueError("broken")])
async def test_a_failing_embedder_leaves_words(engine: LocalEngine, error: Exception) -> None:
    def encode(texts: Sequence[str]) -> Vectors:
        raise error

    engine._worker.add_lane(EMBED, encode)
    turn = await _talk(engine).open()
    assert (turn.degraded, turn.stored) == ("lexical_only", True)
    assert "Zazu" in turn.messages[-1]["content"]


async def test_a_full_device_queue_leaves_words(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._worker, "_max_queued_tokens", 1)
    monkeypatch.setattr(engine._worker, "_queued_tokens", 1)
    turn = await _talk(engine).open()
    assert turn.degraded == "lexical_only"
    assert "Zazu" in turn.messages[-1]["content"]


async def test_a_slow_search_leaves_the_block_and_is_abandoned(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended = asyncio.Event()

    async def search(*_: Any, **__: Any) -> Any:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    with monkeypatch.context() as slow:
        slow.setattr(LongTermMemory, "recall", search)
        turn = await _talk(engine).open(budget_ms=500)
    assert turn.degraded == "block_only"
    assert "Ida" in turn.messages[0]["content"]
    assert turn.messages[-1]["content"] == QUESTION
    assert turn.stored is True
    await ended.wait()
    await eventually(_returns(lambda: not len(engine._chat_turns._late)))
    again = await _talk(engine).open()  # what was not found out is found out at the next attempt
    assert again.degraded is None
    assert "Zazu" in again.messages[-1]["content"]


async def test_no_time_at_all(engine: LocalEngine) -> None:
    written = await _talk(engine).open(budget_ms=0)
    assert (written.degraded, written.stored) == ("block_only", True)
    assert "Ida" in written.messages[0]["content"]
    unwritten = await _talk(engine).open(budget_ms=0, write=False)
    assert (unwritten.degraded, unwritten.used) == ("no_recall", ())


async def test_a_store_in_trouble_is_reported_and_the_chat_goes_on(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    async def fail(*_: Any, **__: Any) -> Any:
        raise StoreError("the disk is full")

    before = kept(tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr(Chats, "open", fail)
        turn = await _talk(engine).open()
        assert (turn.degraded, turn.stored) == ("store_error", False)
        assert "Zazu" in turn.messages[-1]["content"]
        assert await engine.close_turn(turn.turn_id, "Zazu.", "complete") is False
    with monkeypatch.context() as broken:
        for name in ("look", "open", "salt"):
            broken.setattr(Chats, name, fail)
        turn = await _talk(engine).open()
        assert (turn.degraded, turn.stored, turn.used) == ("store_error", False, ())
        assert len(turn.salt) == 64
    turn = await _talk(engine).open()
    with monkeypatch.context() as broken:
        broken.setattr(Chats, "close", fail)
        assert await engine.close_turn(turn.turn_id, "Zazu.", "complete") is False
    assert kept(tmp_path) == [*before, QUESTION]


async def test_a_search_that_cannot_be_is_the_callers_fault(engine: LocalEngine) -> None:
    for options in ({"filters": {"no such": {"op": 1}}}, {"top_k": 10**6}):
        with pytest.raises(InvalidInput):
            await engine.open_turn(ANN, [user(QUESTION)], TurnOptions(**options))


async def test_an_index_begun_in_vain_is_there_for_the_next_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config(tmp_path, **{"chat.budget_ms": LONG_MS, "block.max_tokens": 0})
    engine = await build(config)
    await engine.add(ANN, [Message("user", f"parcel {n} is heavy") for n in range(100)], wait=True)
    await engine.aclose()
    engine = await build(config)
    release = threading.Event()
    builds = 0

    def build_slowly(index: Any, docs: Any, seq: int) -> None:
        nonlocal builds
        builds += index.applied_seq == 0
        release.wait(20)
        plain(index, docs, seq)

    plain = take_in
    monkeypatch.setattr("lightmem_engine.long_term.memory.take_in", build_slowly)
    talk = Talk(engine, session="s")
    talk.history = [user("which parcel?")]
    assert (await talk.open(budget_ms=200)).degraded == "block_only"
    release.set()
    assert (await talk.open()).used
    assert builds == 1
    await engine.aclose()


async def test_the_budget_is_chosen_by_the_device() -> None:
    calls = 0

    async def embed(texts: Sequence[str]) -> Vectors:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.4 if len(texts) > 1 else 0)
        return np.zeros((len(texts), 1), np.float32)

    async def fail(texts: Sequence[str]) -> Vectors:
        raise BackendUnavailable("gone")

    assert await automatic("cuda", embed, 1024) == CUDA_MS
    assert calls == 0
    assert await automatic("cpu", embed, 1024) > CPU_FLOOR_MS
    assert await automatic("cpu", fail, 1024) == CPU_FLOOR_MS


def test_a_deadline_passes_and_stays_passed() -> None:
    deadline = Deadline(0.001)
    time.sleep(0.002)
    assert deadline.left == 0
    assert Deadline(100).left > 90


def _returns(condition: Any) -> Any:
    async def check() -> bool:
        return bool(condition())

    return check

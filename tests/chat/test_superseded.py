"""Superseded messages stay in the log and are recalled no more, whatever the stages were doing at that moment."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.assemble import build
from lightmem_engine.engine import LocalEngine
from lightmem_engine.pipeline.extract import ExtractStage
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.types import Scope
from tests.chat.talk import ANN, Talk, kept, replaced, texts
from tests.support.memory import eventually, facts, quick_config, use_model

OPTIONS = {"block.max_tokens": 0, "short_term.idle_seconds": 0.05}


async def _assert_settled(engine: LocalEngine, talk: Talk, tmp_path: Path) -> None:
    """All that is recalled is the final branch, all of it, and nothing waits."""
    stats = await engine.flush(ANN)
    assert (stats["pending"], stats["parked"]) == (0, [])
    entries = await engine.everything(ANN)
    current = {hit.text.partition(": ")[2] for hit in entries if hit.state in ("pending", "active")}
    assert current == set(texts(talk.history)) == set(kept(tmp_path))
    for gone in replaced(tmp_path):
        found = await engine.search(ANN, gone, top_k=100)
        assert gone not in {hit.text.partition(": ")[2] for hit in found}


@pytest.mark.parametrize("settled", ["pending", "sensed", "closed", "extracted"])
async def test_an_edit_takes_messages_out_of_every_stage(tmp_path: Path, settled: str) -> None:
    options = {"short_term.idle_seconds": 3600.0, "compress.rate": 1.0, "block.max_tokens": 0}
    options |= {"short_term.threshold": 10**6}
    with pytest.MonkeyPatch.context() as patch:

        async def never(*_: Any, **__: Any) -> Any:
            await asyncio.Event().wait()

        if settled == "pending":
            patch.setattr(SenseStage, "run", never)
        if settled == "closed":
            patch.setattr(ExtractStage, "run", never)
        engine = await build(quick_config(tmp_path, **options))
        talk = Talk(engine, session="s")
        for number in range(4):
            await talk.say(f"parcel {number} is heavy")
        if settled == "extracted":
            await engine.flush(ANN)
        elif settled != "pending":

            def all_sensed(connection: sqlite3.Connection) -> bool:
                return bool(connection.execute("SELECT count(*) = 8 FROM sensed").fetchone()[0])

            await eventually(lambda: engine._db.read(all_sensed))
            if settled == "closed":
                waiting = asyncio.ensure_future(engine.flush(ANN))

                def all_closed(connection: sqlite3.Connection) -> bool:
                    return not connection.execute("SELECT count(*) FROM sensed WHERE segment IS NULL").fetchone()[0]

                await eventually(lambda: engine._db.read(all_closed))
                waiting.cancel()
        assert await engine.search(ANN, "parcel 2 is heavy", top_k=1)
        await talk.edit(4, "parcel 7 is light")
        found = await engine.search(ANN, "parcel 2 is heavy", top_k=100)
        assert not any("parcel 2" in hit.text or "parcel 3" in hit.text for hit in found)
        await engine.aclose()
    engine = await build(quick_config(tmp_path, **options))
    talk.engine = engine
    await _assert_settled(engine, talk, tmp_path)
    await engine.aclose()


@pytest.mark.parametrize(("stage", "method"), [(SenseStage, "_sense"), (ExtractStage, "_with_vectors")])
async def test_an_edit_while_a_stage_is_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: type, method: str
) -> None:
    reached, release = asyncio.Event(), asyncio.Event()
    plain = getattr(stage, method)

    async def slow(self: Any, items: Sequence[Any]) -> Any:
        done = await plain(self, items)
        reached.set()
        await release.wait()
        return done

    monkeypatch.setattr(stage, method, slow)
    engine = await build(quick_config(tmp_path, **OPTIONS, **{"compress.rate": 1.0}))
    talk = Talk(engine, session="s")
    for number in range(3):
        await talk.say(f"parcel {number} is heavy")
    await reached.wait()
    await talk.edit(2, "parcel 7 is light")
    release.set()
    await _assert_settled(engine, talk, tmp_path)
    await engine.aclose()


async def test_an_entry_goes_when_its_last_source_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_model(monkeypatch, lambda asked: facts((1, "Ann has a parrot."), (3, "Ann has a boat.")))
    engine = await build(quick_config(tmp_path, **OPTIONS, **{"extract.mode": "llm"}))
    talk = Talk(engine, session="s")
    await talk.say("I have a parrot.")
    await talk.say("I have a boat.")
    await engine.flush(ANN)
    await talk.edit(2, "No, a cat.")
    states = {hit.text: hit.state for hit in await engine.everything(ANN) if hit.kind == "fact"}
    assert states == {"Ann has a parrot.": "active", "Ann has a boat.": "superseded"}
    times = await engine._db.read(
        lambda connection: connection.execute("SELECT state, superseded_at IS NULL FROM entry").fetchall()
    )
    assert set(times) == {("active", 1), ("superseded", 0)}
    await engine.aclose()


async def test_many_users_talk_and_change_their_minds_while_the_stages_work(tmp_path: Path) -> None:
    busy = {"short_term.threshold": 20, "segment.lookahead": 1, "compress.rate": 1.0}
    engine = await build(quick_config(tmp_path, **OPTIONS, **busy))

    async def live(number: int) -> Talk:
        chance, talk = random.Random(number), Talk(engine, Scope(f"user {number}"), session="s")
        await talk.say(f"I am number {number}")
        for turn in range(12):
            what = chance.random()
            if what < 0.5:
                await talk.say(f"fact {turn} of {number}")
            elif what < 0.75:
                await talk.edit(2 * chance.randrange(len(talk.history) // 2) or 2, f"edit {turn} of {number}")
            else:
                await talk.regenerate(f"reply {turn} to {number}")
            await asyncio.sleep(chance.random() * 0.05)
        return talk

    talks = await asyncio.gather(*(live(number) for number in range(8)))
    stats = await engine.flush()
    assert (stats["pending"], stats["parked"]) == (0, [])
    for talk in talks:
        assert kept(tmp_path, talk.scope) == texts(talk.history)
        entries = await engine.everything(talk.scope)
        current = sorted(hit.text.partition(": ")[2] for hit in entries if hit.state == "active")
        assert current == sorted(texts(talk.history))
        assert {hit.state for hit in entries} <= {"active", "superseded"}
    await engine.aclose()

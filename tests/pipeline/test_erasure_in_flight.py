"""What is being worked on while its user is erased, or a message deleted, is not written any more."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.memory import AsyncMemory
from lightmem_engine.models.stub_encoder import StubEmbedder
from lightmem_engine.types import Completion, Priority, Prompt, Sampling, Scope, TurnOptions, Vectors
from tests.support.canary import assert_gone
from tests.support.memory import ScriptedModel, eventually, everything, facts, quick_config, user

EAGER = {"short_term.threshold": 0, "short_term.idle_seconds": 0.05, "segment.lookahead": 1}


class _Gate:
    """Holds an embedder on its device thread until it is told to go on."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.shut = False
        plain = StubEmbedder.encode

        def encode(embedder: StubEmbedder, texts: Sequence[str]) -> Vectors:
            if self.shut:
                self.reached.set()
                assert self.go_on.wait(20)
            return plain(embedder, texts)

        monkeypatch.setattr(StubEmbedder, "encode", encode)

    async def wait(self) -> None:
        await asyncio.to_thread(self.reached.wait, 20)

    def open(self) -> None:
        self.shut = False
        self.go_on.set()


async def _settled(memory: AsyncMemory) -> None:
    """Wait until no stage has anything in hand."""
    stats = await memory.flush()
    assert (stats["pending"], stats["parked"]) == (0, [])


async def test_a_pass_of_the_sensory_stage_outlives_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _Gate(monkeypatch)
    async with AsyncMemory(quick_config(tmp_path, **EAGER)) as memory:
        gate.shut = True
        await memory.add([user(f"kanarisecret {n}", name="Kanari") for n in range(5)], user_id="kanari")
        await memory.add(user("harmless", id="b"), user_id="bob")
        await gate.wait()
        flushing = asyncio.create_task(memory.flush(user_id="kanari"))
        await asyncio.sleep(0)
        await memory.delete_all(user_id="kanari")
        assert_gone(tmp_path, "kanari")
        gate.open()
        await flushing
        await _settled(memory)
        assert_gone(tmp_path, "kanari")
        assert (await memory.stats(user_id="kanari"))["messages"] == 0
        assert [hit.source_ids for hit in await everything(memory, "bob")] == [("b",)]
        assert (await memory.stats())["messages"] == 1


async def test_a_message_deleted_while_it_is_sensed_is_not_sensed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = _Gate(monkeypatch)
    async with AsyncMemory(quick_config(tmp_path, **EAGER)) as memory:
        gate.shut = True
        await memory.add([user("one", id="a"), user("kanarisecret", id="k"), user("two", id="c")], user_id="ann")
        await gate.wait()
        await memory.delete("k", user_id="ann")
        gate.open()
        await _settled(memory)
        assert [hit.source_ids for hit in await everything(memory, "ann")] == [("a",), ("c",)]
        assert_gone(tmp_path, "kanari")


class _Slow(ScriptedModel):
    """A scripted model whose first answer waits for a sign."""

    def __init__(self, answer: Any) -> None:
        super().__init__(answer)
        self.asking, self.go_on = asyncio.Event(), asyncio.Event()
        self.forgotten = 0

    async def generate(self, prompts: Sequence[Prompt], *, sampling: Sampling, priority: Priority) -> list[Completion]:
        found = await super().generate(prompts, sampling=sampling, priority=priority)
        self.asking.set()
        await self.go_on.wait()
        return found

    async def forget(self) -> None:
        self.forgotten += 1


def _use_slow(monkeypatch: pytest.MonkeyPatch, answer: Any) -> _Slow:
    model = _Slow(answer)
    monkeypatch.setattr("lightmem_engine.assemble.load_lm", lambda *_: model)
    return model


@pytest.mark.parametrize("what", ["user", "message"])
async def test_an_extraction_outlives_what_it_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    def answer(asked: str) -> str:
        first = "The kanarisecret is told." if "kanari" in asked else "Ann likes tea."
        return facts((1, first))

    model = _use_slow(monkeypatch, answer)
    async with AsyncMemory(quick_config(tmp_path, **EAGER, **{"extract.mode": "llm"})) as memory:
        said = [user("I like tea with milk.", id="t"), user("My kanarisecret is kanariword.", id="k")]
        await memory.add(said, user_id="ann", session_id="s")
        await model.asking.wait()
        if what == "user":
            await memory.delete_all(user_id="ann")
        else:
            await memory.delete("k", user_id="ann")
        assert_gone(tmp_path, "kanari")
        before = model.forgotten
        model.go_on.set()

        async def forgotten_again() -> bool:
            return model.forgotten > before  # the model read it once more than it had been told to forget

        await eventually(forgotten_again)
        await _settled(memory)
        assert_gone(tmp_path, "kanari")
        left = [] if what == "user" else ["Ann likes tea."]
        assert [hit.text for hit in await everything(memory, "ann")] == left


async def test_a_turn_that_is_open_at_the_erasure_stores_nothing(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        ann = Scope("kanari")
        turn = await memory.engine.open_turn(ann, [user("My kanarisecret")], TurnOptions(session="s"))
        await memory.delete_all(user_id="kanari")
        assert await memory.engine.close_turn(turn.turn_id, "About the kanarisecret", "complete") is False
        assert (await memory.stats())["messages"] == 0
        assert_gone(tmp_path, "kanari")


async def test_a_flush_does_not_wait_for_a_deleted_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = _Gate(monkeypatch)
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        gate.shut = True
        await memory.add(user("one", id="a"), user_id="ann")
        await gate.wait()
        await memory.add(user("two", id="b"), user_id="ann")
        flushing = asyncio.create_task(memory.flush(user_id="ann"))
        await asyncio.sleep(0.05)  # the flush has read how far it must come
        await memory.delete("b", user_id="ann")
        gate.open()
        stats = await asyncio.wait_for(flushing, 20)
        assert (stats["messages"], stats["pending"]) == (1, 0)


async def test_an_erasure_is_finished_even_if_its_caller_goes(tmp_path: Path) -> None:
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        await memory.add(user("My kanarisecret"), user_id="kanari", wait=True)
        erasing = asyncio.create_task(memory.delete_all(user_id="kanari"))
        await asyncio.sleep(0)
        erasing.cancel()

        async def gone() -> bool:
            return bool((await memory.stats())["messages"] == 0)

        await eventually(gone)
        await memory.delete_all(user_id="nobody")  # what was deleted but not scrubbed would be scrubbed now
        assert_gone(tmp_path, "kanari")


async def test_the_model_forgets_what_it_read_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = _use_slow(monkeypatch, lambda asked: "fine")
    async with AsyncMemory(quick_config(tmp_path)) as memory:
        stream = memory.engine.generate([user("My kanarisecret")], Sampling())
        await anext(stream)
        await memory.delete_all(user_id="kanari")
        before = model.forgotten
        async for _ in stream:
            pass
        assert model.forgotten == before + 1

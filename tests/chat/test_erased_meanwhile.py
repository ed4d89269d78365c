"""What is erased or deleted while a chat turn is being opened does not come back with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.assemble import build
from lightmem_engine.chat.turn import ChatTurns
from lightmem_engine.chat.underway import CHANGED, ERASED
from lightmem_engine.engine import LocalEngine
from lightmem_engine.stores.chat_notes import standing
from lightmem_engine.types import Message, Note, OpenTurn
from tests.chat.talk import ANN, Talk, kept
from tests.support.canary import assert_gone
from tests.support.memory import facts, quick_config, use_model, user

SECRET = "My kanarisecret is a green parrot."
QUESTION = "Which colour has the parrot?"


class _Barrier:
    """Holds turns behind one of their steps."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()
        self.is_up = False
        plain = getattr(ChatTurns, step)

        async def slowly(*arguments: Any) -> Any:
            done = await plain(*arguments)
            if self.is_up:
                self.reached.set()
                await self.go_on.wait()
            return done

        monkeypatch.setattr(ChatTurns, step, slowly)

    async def hold(self, talk: Talk, **options: Any) -> asyncio.Task[OpenTurn]:
        """A turn that has come as far as the barrier."""
        self.is_up = True
        turn = asyncio.create_task(talk.open(**options))
        await self.reached.wait()
        return turn

    async def lift(self, turn: asyncio.Task[OpenTurn]) -> OpenTurn:
        self.is_up = False
        self.go_on.set()
        return await turn


@pytest.mark.parametrize(
    ("step", "options"),
    [
        ("_look", {}),
        ("_look", {"write": False}),
        ("_look", {"read": False}),
        ("_remember", {}),
        ("_remember", {"write": False}),
        ("_store", {}),
        ("_store", {"read": False}),
    ],
)
@pytest.mark.parametrize("settled", [True, False])
async def test_a_turn_that_began_before_an_erasure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, options: dict[str, bool], settled: bool
) -> None:
    barrier = _Barrier(monkeypatch, step)
    engine = await build(quick_config(tmp_path))
    await Talk(engine, session="first").say(SECRET)
    talk = Talk(engine, session="second")
    await talk.say("I like tea, the kanarisecret kind.", "Fine.")
    if settled:
        await engine.flush(ANN)
    talk.history.append(user(QUESTION))
    held = await barrier.hold(talk, **options)
    await engine.erase(ANN)
    assert_gone(tmp_path, "kanari")
    turn = await barrier.lift(held)
    assert list(turn.messages) == talk.history  # what the client itself says, and nothing else
    assert (turn.stored, turn.degraded, turn.used) == (False, ERASED, ())
    assert await engine.close_turn(turn.turn_id, "The kanarisecret is green.", "complete") is False
    assert_gone(tmp_path, "kanari")
    assert (await engine.stats(ANN))["messages"] == 0
    await talk.say("A new beginning.")  # what the client tells from now on is told
    assert kept(tmp_path)[-2] == "A new beginning."
    await engine.aclose()


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("step", ["_look", "_remember"])
async def test_a_turn_that_began_before_a_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, settled: bool
) -> None:
    barrier = _Barrier(monkeypatch, step)
    engine = await build(quick_config(tmp_path))
    await engine.add(ANN, [Message("user", SECRET), Message("user", "Tea is what I like.")], session="notes")
    if settled:
        await engine.flush(ANN)
    talk = Talk(engine, session="s")
    talk.history.append(user(QUESTION))
    held = await barrier.hold(talk)
    await engine.delete(ANN, await _id_of(engine, "kanari"))
    turn = await barrier.lift(held)
    assert "kanari" not in str(turn.messages)
    assert turn.stored is True
    assert turn.degraded == CHANGED
    await engine.close_turn(turn.turn_id, "I do not know.", "complete")
    assert_gone(tmp_path, "kanari")
    talk.history += [{"role": "assistant", "content": "I do not know."}]
    turn = await talk.say("Which drink do I like?")
    assert (turn.stored, turn.degraded) == (True, None)
    assert "Tea" in str(turn.messages)
    assert "kanari" not in str(turn.messages)
    await engine.aclose()


async def _id_of(engine: LocalEngine, word: str) -> str:
    page = await engine.entries(ANN)
    return next(entry.id for entry in page.entries if word in entry.text)


async def test_a_deleted_fact_takes_along_the_line_of_its_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_model(monkeypatch, lambda asked: facts((1, "Ann has a kanarisecret.")) if "kanari" in asked else facts())
    engine = await build(quick_config(tmp_path, **{"extract.mode": "llm"}))
    await engine.add(ANN, [Message("user", SECRET)], session="notes")
    talk = Talk(engine, session="s")
    assert "kanarisecret" in (await talk.say(QUESTION, "Green.")).messages[-1]["content"]
    await engine.flush(ANN)
    again = Talk(engine, session="t")  # its block has the fact
    assert (
        "Ann has a kanarisecret." in (await again.say("Good morning, what is new?", "Nothing.")).messages[0]["content"]
    )
    await engine.delete(ANN, await _id_of(engine, "Ann has a kanari"))
    for one in (talk, again):
        one.history.append(user("thank you"))
        assert "kanari" not in str((await one.open(top_k=0)).messages)
    assert_gone(tmp_path, "kanari")
    await engine.aclose()


async def test_a_line_holds_only_for_the_message_that_says_so(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path))
    await engine.add(ANN, [Message("user", SECRET, id="m1")], session="notes")
    note = Note("m1", f"[1 May 2023] user: {SECRET}")

    async def holds() -> bool:
        return await engine._db.read(lambda connection: standing(connection, ANN, [note])) == (note,)

    assert await holds()
    await engine.flush(ANN)
    assert await holds()
    await engine.delete(ANN, await _id_of(engine, "kanari"))
    assert not await holds()
    await engine.add(ANN, [Message("user", "I like tea.", id="m1")], session="notes")
    assert not await holds()
    await engine.aclose()

"""Which messages of a resent conversation are new, and what an edit, a regenerated reply or a retry replaces."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.assemble import build
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import Conflict, InvalidInput
from lightmem_engine.types import Scope, TurnOptions
from tests.chat.talk import ANN, Talk, kept, replaced, texts
from tests.support.memory import assistant, quick_config, user

NAMED = pytest.mark.parametrize("options", [{"session": "s"}, {}], ids=["with an id", "without ids"])


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    engine = await build(quick_config(tmp_path))
    yield engine
    await engine.aclose()


async def test_thirty_turns_with_an_edit_and_a_regenerated_reply(tmp_path: Path, engine: LocalEngine) -> None:
    talk = Talk(engine, session="s")
    for number in range(30):
        await talk.say(f"fact {number} about the harbour")
        if number == 12:
            await engine.flush(ANN)  # the branch that is given up has entries by now
            await talk.edit(2 * number, "the harbour has moved")
        if number == 20:
            await talk.regenerate("The harbour is far away.")
    assert kept(tmp_path) == texts(talk.history)
    assert sorted(replaced(tmp_path)) == [
        "I hear: fact 12 about the harbour",
        "I hear: fact 20 about the harbour",
        "fact 12 about the harbour",
    ]
    assert (await engine.flush(ANN))["pending"] == 0
    found = await engine.search(ANN, "fact 12 about the harbour", top_k=100)
    assert not any("fact 12 about" in hit.text or "fact 20 about the harbour" in hit.text[13:] for hit in found)
    states = {hit.text: hit.state for hit in await engine.everything(ANN)}
    assert {state for text, state in states.items() if "fact 12 about" in text} == {"superseded"}


async def test_an_edit_far_back_replaces_all_that_followed(tmp_path: Path, engine: LocalEngine) -> None:
    talk = Talk(engine, session="s")
    for number in range(8):
        await talk.say(f"fact {number}")
    gone = texts(talk.history)[6:]
    await talk.edit(6, "another fact")
    await talk.say("and one more")
    assert kept(tmp_path) == texts(talk.history)
    assert replaced(tmp_path) == gone


async def test_a_second_conversation_with_the_same_opening_leaves_the_first_intact(
    tmp_path: Path, engine: LocalEngine
) -> None:
    first, second = Talk(engine), Talk(engine)
    for text in ("hello", "my parrot is called Zazu", "he is green"):
        await first.say(text)
    for text in ("hello", "my boat is called Ida"):
        await second.say(text)
    assert sorted(kept(tmp_path)) == sorted(texts(first.history) + texts(second.history))
    assert replaced(tmp_path) == []
    await first.say("and he is old")
    await second.say("and she is blue")
    assert sorted(kept(tmp_path)) == sorted(texts(first.history) + texts(second.history))


async def test_without_ids_an_edit_begins_a_new_conversation_and_supersedes_nothing(
    tmp_path: Path, engine: LocalEngine
) -> None:
    talk = Talk(engine)
    for text in ("hello", "my parrot is called Zazu", "he is green"):
        await talk.say(text)
    before = texts(talk.history)
    await talk.edit(2, "my boat is called Ida")
    assert sorted(kept(tmp_path)) == sorted(before + texts(talk.history))
    assert replaced(tmp_path) == []


@NAMED
async def test_a_regenerated_reply_replaces_the_reply_alone(
    tmp_path: Path, engine: LocalEngine, options: dict[str, Any]
) -> None:
    talk = Talk(engine, **options)
    await talk.say("hello")
    await talk.say("what is new?", "Nothing.")
    await talk.regenerate("A lot.")
    await talk.say("tell me")
    assert kept(tmp_path) == texts(talk.history)
    assert replaced(tmp_path) == ["Nothing."]


@NAMED
async def test_a_regenerated_reply_that_never_comes_leaves_the_old_one(
    tmp_path: Path, engine: LocalEngine, options: dict[str, Any]
) -> None:
    talk = Talk(engine, **options)
    await talk.say("hello", "Hi!")
    talk.history.pop()
    turn = await talk.open()
    assert await engine.close_turn(turn.turn_id, "", "partial") is False
    assert kept(tmp_path) == ["hello", "Hi!"]


@NAMED
async def test_the_same_reply_again_is_stored_once(
    tmp_path: Path, engine: LocalEngine, options: dict[str, Any]
) -> None:
    talk = Talk(engine, **options)
    await talk.say("hello", "Hi!")
    await talk.regenerate("Hi!")
    assert (kept(tmp_path), replaced(tmp_path)) == (["hello", "Hi!"], [])


@NAMED
async def test_retries_at_the_same_time_store_the_question_once_and_one_reply(
    tmp_path: Path, engine: LocalEngine, options: dict[str, Any]
) -> None:
    talk = Talk(engine, **options)
    await talk.say("hello", "Hi!")
    talk.history.append(user("what is new?"))
    turns = await asyncio.gather(*(talk.open() for _ in range(5)))
    assert all(turn.stored for turn in turns)
    assert all(turn.messages == turns[0].messages for turn in turns)
    await asyncio.gather(*(engine.close_turn(turn.turn_id, f"reply {n}", "complete") for n, turn in enumerate(turns)))
    assert kept(tmp_path)[:3] == ["hello", "Hi!", "what is new?"]
    assert len(kept(tmp_path)) == 4


async def test_the_reply_of_the_later_retry_stays(tmp_path: Path, engine: LocalEngine) -> None:
    talk = Talk(engine, session="s")
    talk.history.append(user("hello"))
    first, second = await talk.open(), await talk.open()
    assert await engine.close_turn(second.turn_id, "to whoever still listens", "complete") is True
    assert await engine.close_turn(first.turn_id, "to nobody", "complete") is False
    assert kept(tmp_path) == ["hello", "to whoever still listens"]


async def test_a_reply_to_a_branch_that_was_superseded_meanwhile_is_not_kept(
    tmp_path: Path, engine: LocalEngine
) -> None:
    talk = Talk(engine, session="s")
    await talk.say("hello", "Hi!")
    talk.history.append(user("what is new?"))
    slow = await talk.open()
    await talk.edit(2, "what is old?", "Everything.")
    assert await engine.close_turn(slow.turn_id, "Nothing.", "complete") is False
    assert kept(tmp_path) == ["hello", "Hi!", "what is old?", "Everything."]


async def test_a_reply_does_not_replace_what_was_said_after_an_earlier_one(tmp_path: Path, engine: LocalEngine) -> None:
    talk = Talk(engine, session="s")
    talk.history.append(user("hello"))
    slow = await talk.open()
    await talk.answer("Hi!")
    await talk.say("what is new?", "Nothing.")
    assert await engine.close_turn(slow.turn_id, "Hello there!", "complete") is False
    assert kept(tmp_path) == texts(talk.history)


@NAMED
async def test_a_key_stores_once_and_another_request_with_it_is_a_conflict(
    tmp_path: Path, engine: LocalEngine, options: dict[str, Any]
) -> None:
    talk = Talk(engine, **options)
    await talk.say("hello", "Hi!", idempotency_key="k1")
    await talk.say("what is new?", "Nothing.", idempotency_key="k2")
    late = Talk(engine, **options)
    late.history = [user("hello")]
    turn = await late.open(idempotency_key="k1")  # arrives when the conversation has gone on
    assert turn.stored is True
    assert await engine.close_turn(turn.turn_id, "Late!", "complete") is False
    assert kept(tmp_path) == texts(talk.history)
    late.history = [user("good bye")]
    with pytest.raises(Conflict, match="k1"):
        await late.open(idempotency_key="k1")
    other = Talk(engine, Scope("bob"), **options)
    assert (await other.say("good bye", idempotency_key="k1")).stored is True
    assert kept(tmp_path) == texts(talk.history)


async def test_a_key_of_a_branch_that_is_gone_brings_nothing_back(tmp_path: Path, engine: LocalEngine) -> None:
    talk = Talk(engine, session="s")
    await talk.say("hello", "Hi!")
    await talk.say("what is new?", "Nothing.", idempotency_key="k")
    before = list(talk.history[:3])
    await talk.edit(2, "what is old?", "Everything.")
    late = Talk(engine, session="s")
    late.history = before
    turn = await late.open(idempotency_key="k")
    assert await engine.close_turn(turn.turn_id, "Nothing!", "complete") is False
    assert kept(tmp_path) == texts(talk.history)


async def test_a_client_that_sends_no_history_adds_to_its_session(tmp_path: Path, engine: LocalEngine) -> None:
    for number in range(4):
        talk = Talk(engine, session="s")
        await talk.say(f"fact {number}")
    again = Talk(engine, session="s")
    await again.say("fact 1")  # not a retry of what was said three turns ago
    said = [f"fact {number}" for number in (0, 1, 2, 3, 1)]
    assert kept(tmp_path) == [text for fact in said for text in (fact, f"I hear: {fact}")]


async def test_a_client_that_cuts_its_history_goes_on_where_it_was(tmp_path: Path, engine: LocalEngine) -> None:
    talk = Talk(engine, session="s")
    said = []
    for number in range(6):
        await talk.say(f"fact {number}")
        said += texts(talk.history[-2:])
        talk.history = talk.history[-4:]
    assert kept(tmp_path) == said
    await talk.regenerate("Say that again?")
    assert kept(tmp_path) == [*said[:-1], "Say that again?"]
    await talk.edit(2, "another fact")
    assert kept(tmp_path) == [*said[:-2], *texts(talk.history[2:])]
    assert sorted(replaced(tmp_path)) == sorted([said[-1], said[-2], "Say that again?"])


async def test_a_conversation_that_contradicts_its_session_from_the_start_takes_its_place(
    tmp_path: Path, engine: LocalEngine
) -> None:
    talk = Talk(engine, session="s")
    await talk.say("hello", "Hi!")
    other = Talk(engine, session="s")
    other.history = [user("good evening"), assistant("Good evening!")]
    await other.say("what is new?")
    assert kept(tmp_path) == texts(other.history)
    assert replaced(tmp_path) == ["hello", "Hi!"]


async def test_what_the_server_has_not_seen_is_taken_from_the_client(tmp_path: Path, engine: LocalEngine) -> None:
    for options in ({"session": "s"}, {}):
        talk = Talk(engine, Scope("ann", tenant=str(len(options))), **options)
        talk.history = [user("my parrot is called Zazu"), assistant("A fine name.")]
        await talk.say("and he is green")
        assert kept(tmp_path, talk.scope) == texts(talk.history)


@NAMED
async def test_a_reply_cut_off_by_the_client_is_kept_as_the_client_has_it(
    tmp_path: Path, engine: LocalEngine, options: dict[str, Any]
) -> None:
    talk = Talk(engine, **options)
    talk.history.append(user("tell me a story"))
    turn = await talk.open()
    assert await engine.close_turn(turn.turn_id, "Once upon a time there was", "partial") is True
    assert kept(tmp_path) == ["tell me a story", "Once upon a time there was"]
    found = await engine.search(ANN, "once upon a time", filters={"partial": True})
    assert [hit.text for hit in found] == ["assistant: Once upon a time there was"]
    talk.history.append(assistant("Once upon a"))
    await talk.say("shorter, please")
    assert kept(tmp_path) == texts(talk.history)


async def test_users_tenants_and_sessions_are_apart(tmp_path: Path, engine: LocalEngine) -> None:
    scopes = [Scope("ann"), Scope("bob"), Scope("ann", tenant="other")]
    talks = [Talk(engine, scope, **options) for scope in scopes for options in ({"session": "s"}, {"session": "t"}, {})]
    for talk in talks:
        await talk.say("hello")
        await talk.regenerate("Hi!")
    for scope in scopes:
        assert kept(tmp_path, scope) == ["hello", "Hi!"] * 3
    salts = {talk.scope: (await talk.open()).salt for talk in talks}
    assert len(set(salts.values())) == 3
    assert {len(bytes.fromhex(salt)) for salt in salts.values()} == {32}


async def test_a_name_that_cannot_be_is_refused(engine: LocalEngine) -> None:
    for options in (
        TurnOptions(session=""),
        TurnOptions(session="a\nb"),
        TurnOptions(idempotency_key="k" * 300),
        TurnOptions(budget_ms=-1),
        TurnOptions(budget_ms=float("nan")),
    ):
        with pytest.raises(InvalidInput):
            await engine.open_turn(ANN, [user("hello")], options)

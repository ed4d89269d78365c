"""What stands in the prompt: a block that stands still, hits that are replayed, and a prefix that stays."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.assemble import build
from lightmem_engine.engine import LocalEngine
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.stores.chats import forget_user, rewrite
from lightmem_engine.types import Message, Scope, TurnOptions
from tests.chat.talk import ANN, Talk, kept, texts
from tests.models.tiny_qwen import tokenizer
from tests.support.memory import assistant, quick_config, user

FACTS = [
    "My parrot is called Zazu.",
    "My boat is called Ida.",
    "My sister lives in Oslo.",
    "I am allergic to peanuts.",
    "My dentist is Doctor Brandt.",
]
QUESTIONS = [
    "What is my parrot called?",
    "Which boat do I own?",
    "Where does my sister live?",
    "What am I allergic to?",
    "Who is my dentist?",
]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[LocalEngine]:
    engine = await build(quick_config(tmp_path))
    yield engine
    await engine.aclose()


async def _tell(engine: LocalEngine, facts: Sequence[str] = FACTS, scope: Scope = ANN) -> None:
    await engine.add(scope, [Message("user", fact) for fact in facts], session="long ago", wait=True)


def _up_to_the_question(words: Any, messages: Sequence[Any]) -> list[int]:
    last = max(index for index, message in enumerate(messages) if message["role"] == "user")
    ids: list[int] = words.apply_chat_template([dict(one) for one in messages[: last + 1]], return_dict=False)
    return ids


@pytest.mark.parametrize("max_tokens", [0, 40, 256], ids=["no block", "small block", "block"])
@pytest.mark.parametrize("system", ["", "Be brief."])
async def test_the_prompt_of_a_turn_is_a_prefix_of_the_next(tmp_path: Path, system: str, max_tokens: int) -> None:
    words = tokenizer()
    options = {"block.max_tokens": max_tokens, "chat.top_k": 2}
    engine = await build(quick_config(tmp_path, **options))
    await _tell(engine)
    for session in ("s", None):
        talk, before = Talk(engine, system=system, session=session), list[int]()
        used: list[int] = []
        for number, question in enumerate(QUESTIONS * 2):
            turn = await talk.say(f"{question} ({number})", f"<think>\nhm\n</think>\n\nanswer {number}")
            prompt = _up_to_the_question(words, turn.messages)
            assert prompt[: len(before)] == before
            before, used = prompt, [*used, len(turn.used)]
            if number == 3:  # neither new memories nor their consolidation touch a session that lives
                await _tell(engine, ["My cat is called Tom."])
            if number == 5:  # nor does a restart
                await engine.aclose()
                engine = await build(quick_config(tmp_path, **options))
                talk.engine = engine
        assert used == sorted(used)
        assert used[-1] > 0
    await engine.aclose()


async def test_a_hit_is_replayed_and_never_repeated(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path, **{"block.max_tokens": 0}))
    await _tell(engine)
    talk = Talk(engine, session="s")
    first = await talk.say(QUESTIONS[0])
    again = await talk.say(QUESTIONS[0] + " Tell me again.")
    assert "Zazu" in first.messages[0]["content"]
    assert again.messages[0] == first.messages[0]
    shown = "".join(str(message["content"]) for message in again.messages)
    assert shown.count("[") == shown.count("Zazu") + sum(shown.count(w) for w in ("Ida", "Oslo", "peanuts", "Brandt"))
    assert shown.count("Zazu") == 1
    assert len(again.used) == len(set(again.used)) >= len(first.used)
    await engine.aclose()


async def test_a_hit_that_waited_is_known_again_as_an_entry(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path, **{"block.max_tokens": 0}))
    await engine.add(ANN, [Message("user", FACTS[0])], session="earlier")
    talk = Talk(engine, session="s")
    assert len((await talk.say(QUESTIONS[0])).used) == 1
    await engine.flush(ANN)
    turn = await talk.say(QUESTIONS[0] + " Really?")
    assert "".join(str(message["content"]) for message in turn.messages).count("Zazu") == 1
    await engine.aclose()


async def test_a_fact_told_one_turn_ago_is_found_in_the_next_conversation(engine: LocalEngine) -> None:
    await Talk(engine).say(FACTS[0])
    turn = await Talk(engine).say(QUESTIONS[0])
    assert "Zazu" in turn.messages[-1]["content"]
    assert turn.degraded is None
    assert turn.used


async def test_the_block_grows_with_each_session_and_begins_anew_when_it_is_full(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path, **{"block.max_tokens": 70, "chat.top_k": 0, "compress.rate": 1.0}))
    blocks: list[str] = []
    for number, fact in enumerate([*FACTS, "My garden has three old apple trees.", "Do I like tea?"]):
        await _tell(engine, [fact])
        talk = Talk(engine, session=f"s{number}")
        turn = await talk.say("hello")
        block = turn.messages[0]["content"] if turn.messages[0]["role"] == "system" else ""
        later = await talk.say("and again")
        assert later.messages[0] == turn.messages[0]
        blocks.append(block.removesuffix("</memory>"))
    grows = [after.startswith(before) for before, after in itertools.pairwise(blocks)]
    assert grows.count(False) == 1, "one new epoch"
    assert grows[0]
    assert grows[-1]
    assert blocks[-1] == blocks[-2], "a question tells nothing"
    assert "Zazu" in blocks[2]
    assert "Zazu" not in blocks[-1]
    assert "apple" in blocks[-1]
    assert all("hear" not in block for block in blocks), "of what was said, only the user's own words"
    await engine.aclose()


async def test_block_and_hits_follow_an_edit_and_a_deletion_and_nothing_else(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path, **{"chat.top_k": 2, "compress.rate": 1.0}))
    await _tell(engine, FACTS[:2])
    talk = Talk(engine, session="s")
    await talk.say("hello")
    await _tell(engine, FACTS[2:])
    other = Talk(engine, Scope("bob"), session="s")
    await _tell(engine, FACTS, Scope("bob"))
    bob = await other.say(QUESTIONS[0])
    before = await talk.say(QUESTIONS[2])
    ids = {hit.text: hit.id for hit in await engine.everything(ANN)}
    changed = {
        ids[f"user: {FACTS[0]}"]: "[1 May 2023] user: My parrot is called Iago.",
        ids[f"user: {FACTS[1]}"]: None,
        ids[f"user: {FACTS[2]}"]: None,
    }
    assert "Ida" in before.messages[0]["content"]
    assert "Oslo" in before.messages[-1]["content"]
    await engine._db.write(lambda connection: rewrite(connection, ANN, changed))
    talk.history.append(user("thank you"))
    shown = str((await talk.open(top_k=0)).messages)
    assert "Iago" in shown
    assert not any(word in shown for word in ("Zazu", "Ida", "Oslo"))
    assert (await other.say("thank you")).messages[0] == bob.messages[0]
    await engine.aclose()


async def test_a_deletion_reaches_a_line_that_was_injected_while_its_message_waited(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path))
    await engine.add(ANN, [Message("user", FACTS[0])], session="earlier")
    talk = Talk(engine, session="s")
    assert "Zazu" in (await talk.say(QUESTIONS[0])).messages[-1]["content"]
    await engine.flush(ANN)
    entry = next(hit.id for hit in await engine.everything(ANN) if "Zazu" in hit.text)
    await engine._db.write(lambda connection: rewrite(connection, ANN, {entry: None}))
    talk.history.append(user("thank you"))
    turn = await talk.open(top_k=0)
    assert "Zazu" not in str(turn.messages)
    await engine.aclose()


async def test_a_forgotten_user_leaves_no_conversation_behind(tmp_path: Path, engine: LocalEngine) -> None:
    await _tell(engine)
    talk, bob = Talk(engine, session="s"), Talk(engine, Scope("bob"), session="s")
    first = await talk.say(QUESTIONS[0], idempotency_key="k")
    await bob.say("hello")
    talk.history.append(user("one more"))
    open_turn = await talk.open()
    bob_open = await engine.open_turn(Scope("bob"), [user("good day")], TurnOptions())
    await engine._db.write(lambda connection: forget_user(connection, ANN))

    def rows(connection: Any) -> list[int]:
        tables = ("chat_user", "chat_session", "chat_thread", "chat_key")
        counts = [
            connection.execute(f"SELECT count(*) FROM {table} WHERE user = 'ann'").fetchone()[0] for table in tables
        ]
        links = "SELECT count(*) FROM chat_link WHERE thread NOT IN (SELECT id FROM chat_thread)"
        return [*counts, connection.execute(links).fetchone()[0]]

    assert await engine._db.read(rows) == [0] * 5
    engine._chat_turns.forget(Scope("bob"))
    assert await engine.close_turn(bob_open.turn_id, "too late", "complete") is False
    assert await engine.close_turn(open_turn.turn_id, "too late", "complete") is False
    assert (await Talk(engine, session="s").say("hello")).salt != first.salt
    assert kept(tmp_path, Scope("bob"), "s") == texts(bob.history)


async def test_read_false_places_nothing_and_write_false_stores_nothing(tmp_path: Path, engine: LocalEngine) -> None:
    await _tell(engine)
    talk = Talk(engine, session="s")
    unread = await talk.say(QUESTIONS[0], read=False)
    assert unread.messages == ({"role": "user", "content": QUESTIONS[0]},)
    assert (unread.stored, unread.used) == (True, ())
    talk.history.append(user(QUESTIONS[1]))
    before = kept(tmp_path)
    unwritten = await talk.open(write=False)
    assert "Ida" in str(unwritten.messages)
    assert (unwritten.stored, len(unwritten.salt)) == (False, 64)
    assert await engine.close_turn(unwritten.turn_id, "Ida.", "complete") is False
    assert kept(tmp_path) == before
    written = await talk.open()
    assert written.messages == unwritten.messages
    replayed = await talk.open(write=False)
    assert replayed.messages == written.messages


async def test_a_tool_loop_replays_and_recalls_nothing_new(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path, **{"block.max_tokens": 0, "chat.top_k": 1}))
    await _tell(engine)
    call = {"id": "c1", "type": "function", "function": {"name": "sea", "arguments": '{"place": "Oslo"}'}}
    talk = Talk(engine, session="s")
    talk.history.append(user(QUESTIONS[0]))
    asked = await talk.open()
    assert await engine.close_turn(asked.turn_id, "", "complete", tool_calls=[{**call, "index": 0}]) is True
    rewritten = {**call, "function": {"name": "sea", "arguments": '{"place":"Oslo"}'}}
    talk.history.append({"role": "assistant", "content": None, "tool_calls": [rewritten]})
    talk.history.append(
        {"role": "tool", "tool_call_id": "c1", "content": "My boat is called Ida, and it is 12 degrees."}
    )
    looped = await talk.open()
    assert looped.messages[0] == asked.messages[0]
    assert looped.used == asked.used
    assert list(looped.messages[1:]) == talk.history[1:]
    await engine.close_turn(looped.turn_id, "It is 12 degrees.", "complete")
    assert kept(tmp_path, session="s") == [QUESTIONS[0], "It is 12 degrees."]
    talk.history.append(assistant("It is 12 degrees."))
    await talk.say("thank you")
    assert kept(tmp_path, session="s")[2:] == ["thank you", "I hear: thank you"]
    await engine.aclose()


async def test_tool_results_are_remembered_by_option(tmp_path: Path) -> None:
    engine = await build(quick_config(tmp_path, **{"chat.store_tool_results": True}))
    talk = Talk(engine, session="s")
    call = {"id": "c1", "type": "function", "function": {"name": "sea", "arguments": "{}"}}
    talk.history = [user("how warm is the sea?"), {"role": "assistant", "content": "", "tool_calls": [call]}]
    talk.history.append({"role": "tool", "tool_call_id": "c1", "name": "sea", "content": "The sea has 12 degrees."})
    await talk.answer("It has 12 degrees.")
    found = await engine.search(ANN, "degrees", filters={"tool": True})
    assert [hit.text for hit in found] == ["sea: The sea has 12 degrees."]
    await engine.aclose()


async def test_only_what_was_said_is_remembered(tmp_path: Path, engine: LocalEngine) -> None:
    talk = Talk(engine, system="You are a pirate.", session="s")
    injected = prompts.memory_text(["[8 May 2023] user: My boat is called Ida."])
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [{"type": "text", "text": "My parrot"}, image, {"type": "text", "text": "is called Zazu."}]
    talk.history.append({"role": "user", "content": f"{injected}\n\nWhat is <memory>mine</memory>?"})
    turn = await talk.open()
    assert "Ida" not in str(turn.messages)
    await engine.close_turn(turn.turn_id, "<think>\nA pirate.\n</think>\n\nArr!", "complete")
    talk.history.append(assistant("Arr!"))
    talk.history.append({"role": "user", "content": parts})
    turn = await talk.open()
    assert image in turn.messages[-1]["content"]
    await engine.close_turn(turn.turn_id, "thinking still</think>Arr again!", "complete")
    assert kept(tmp_path) == ["What is <memory>mine</memory>?", "Arr!", "My parrot\nis called Zazu.", "Arr again!"]
    other = Talk(engine, session="t")
    turn = await other.say("What is mine?")
    assert "‹memory>mine‹/memory>" in turn.messages[-1]["content"]


async def test_another_picture_is_another_message(tmp_path: Path, engine: LocalEngine) -> None:
    def shown(data: str) -> dict[str, Any]:
        picture = {"type": "image_url", "image_url": {"url": f"data:,{data}"}}
        return {"role": "user", "content": [{"type": "text", "text": "what is this?"}, picture]}

    talk = Talk(engine, session="s")
    await talk.say("hello")
    for data in ("a", "b"):
        talk.history = [*talk.history[:2], shown(data)]
        await talk.answer(f"picture {data}")
    assert kept(tmp_path)[2:] == ["what is this?", "picture b"]


async def test_what_the_request_holds_already_is_not_injected(engine: LocalEngine) -> None:
    await Talk(engine).say(FACTS[0])
    await engine.flush(ANN)
    talk = Talk(engine)
    talk.history = [user(FACTS[0]), assistant("I see.")]
    turn = await talk.say(QUESTIONS[0])
    assert "user: My parrot" not in str(turn.messages)
    await _tell(engine, [FACTS[1]])
    assert "Zazu" in str((await Talk(engine).say("hello")).messages), "it is there for other sessions"


async def test_without_a_scope_nothing_is_touched(tmp_path: Path, engine: LocalEngine) -> None:
    messages = [{"role": "user", "content": prompts.memory_text(["x"])}]
    turn = await engine.open_turn(None, messages, TurnOptions(session="s"))
    assert turn.messages == tuple(messages)
    assert (turn.salt, turn.used, turn.stored) == ("", (), False)
    assert await engine.close_turn(turn.turn_id, "Hi!", "complete") is False
    assert (await engine.stats())["messages"] == 0

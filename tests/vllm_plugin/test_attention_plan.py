"""Which tokens of which step are looked at, and where turns stand in a prompt."""

from __future__ import annotations

import time
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest

from lightmem_engine.prompts import v1
from lightmem_engine.vllm_plugin.attention import plan
from lightmem_engine.vllm_plugin.attention.plan import TURNS, AttentionPlanner, Turns, find_turns
from tests.models import tiny_qwen

FIRST, SECOND = "Caroline lives in Denver.", "And in 2023?"


@pytest.fixture(scope="module")
def words() -> Any:
    return tiny_qwen.tokenizer()


def prompt_of(words: Any, contents: list[str]) -> list[int]:
    messages = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    text = words.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    found: list[int] = words(text)["input_ids"]
    return found


def found(planner: AttentionPlanner, id: str) -> None:
    """Wait until its turns have been looked for."""
    while planner.is_searching(id):
        time.sleep(0.001)


@pytest.fixture
def planner(words: Any) -> Any:
    made = AttentionPlanner(words, 8)
    yield made
    made.close()


def test_a_prompt_is_looked_at_step_by_step_and_no_further(planner: AttentionPlanner, words: Any) -> None:
    ids = prompt_of(words, [FIRST, "Yes.", SECOND])
    planner.add("r", ids, {TURNS: [FIRST, "Yes.", SECOND]})
    found(planner, "r")
    first = planner.scheduled("r", [5, 2, 9], 11, 13, anew=True)
    assert first is not None
    assert (first.request, first.slot, first.start, first.count, first.is_last) == ("r", 2 * 8 + 3, 11, 13, False)
    assert first.turns is not None
    assert first.turns.texts == (FIRST, "Yes.", SECOND)
    last = planner.scheduled("r", [7, 1, 3, 4, 6, 8], 24, 1000, anew=False)
    assert last is not None
    assert (last.slot, last.count, last.turns, last.is_last) == (7 * 8, len(ids) - 24, None, True)
    assert planner.scheduled("r", [], len(ids), 1, anew=False) is None  # the answer is being written


def test_only_who_asks_is_looked_at(planner: AttentionPlanner, words: Any) -> None:
    ids = prompt_of(words, [FIRST])
    for params in (None, {}, {TURNS: FIRST}, {TURNS: [1]}, {TURNS: ["not in it"]}, {TURNS: [""]}):
        planner.add("r", ids, params)
        found(planner, "r")
        assert planner.scheduled("r", [0, 1, 2], 0, 8, anew=True) is None
    planner.add("r", ids, {TURNS: [FIRST]})
    planner.remove("r")
    assert planner.scheduled("r", [0, 1, 2], 0, 8, anew=True) is None


def test_turns_are_found_by_the_text_that_tokens_spell(words: Any) -> None:
    hits = v1.memory_text(["[8 May 2023] user: likes tea"])
    contents = [FIRST, "", f"{hits}\n\n{SECOND}", FIRST]
    ids = prompt_of(words, contents)
    found = find_turns(words, ids, contents)
    assert found is not None
    assert found.texts == (FIRST, "", SECOND, FIRST)
    for turn, text in enumerate(found.texts):
        own = [token for token, of in zip(ids, found.segments, strict=True) if of == turn]
        assert text in words.decode(own)
        assert len(words.decode(own)) <= len(text) + 2  # a token may reach over the edge
    assert np.flatnonzero(found.segments == 0)[-1] < np.flatnonzero(found.segments == 3)[0]


def test_tokens_that_spell_another_text_are_refused(words: Any) -> None:
    ids = prompt_of(words, [FIRST])
    letters = [words(letter)["input_ids"][0] for letter in "fox"]
    assert words.decode(letters) == "fox"
    assert find_turns(words, [*ids, *letters], [FIRST]) is None


def test_a_request_is_begun_when_its_turns_are_found_or_that_takes_too_long(
    planner: AttentionPlanner, words: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    searched: Future[Turns | None] = Future()
    monkeypatch.setattr(planner._thread, "submit", lambda *_: searched)
    ids = prompt_of(words, [FIRST])
    assert not planner.is_searching("r")
    planner.add("r", ids, {TURNS: [FIRST]})
    assert planner.is_searching("r")
    searched.set_result(find_turns(words, ids, [FIRST]))
    assert not planner.is_searching("r")
    assert planner.scheduled("r", [0, 1], 0, 8, anew=True) is not None
    searched = Future()
    planner.add("late", ids, {TURNS: [FIRST]})
    monkeypatch.setattr(plan, "PATIENCE_SECONDS", 0.0)
    assert not planner.is_searching("late")
    assert "not found in time" in caplog.text
    assert planner.scheduled("late", [0, 1], 0, 8, anew=True) is None

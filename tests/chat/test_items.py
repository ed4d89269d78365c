"""What makes a message the same message, and what of it is remembered."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.chat.items import items_of, reply_item, spoken_text, text_of, without_injected
from lightmem_engine.prompts import v1 as prompts
from tests.support.memory import assistant, user

FENCE = prompts.memory_text(["[8 May 2023] user: I own a boat."])
CALL = {"id": "c1", "type": "function", "function": {"name": "sea", "arguments": '{"a": 1, "b": [2]}'}}


def _digest(message: dict[str, Any]) -> bytes:
    return items_of([message], tool_results=False)[0][0].digest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("hello"), user("  hello\n")),
        (user("hello"), user([{"type": "text", "text": "hello"}])),  # type: ignore[arg-type]
        (user("hello"), user(f"{FENCE}\n\nhello")),
        (user("hello"), user("hello", name="Ann")),
        (assistant("hello"), assistant("<think>\nhm\n</think>\n\nhello")),
        (assistant("hello"), assistant("hm, well</think>hello")),
        (assistant("hello"), assistant("hello<think>and then")),
        (
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            assistant("", tool_calls=[{**CALL, "index": 0}]),
        ),
        (assistant("", tool_calls=[CALL]), assistant("", tool_calls=[_ := {**CALL, "type": None}])),
        (assistant("hello", tool_calls=[]), assistant("hello", tool_calls=None, refusal=None)),
    ],
)
def test_the_same_message(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert _digest(one) == _digest(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (user("hello"), assistant("hello")),
        (user("hello"), user("Hello")),
        (user("hello"), user("<think>x</think>hello")),
        (user("hello"), user("<memory>mine</memory>hello")),
        (assistant(""), assistant("", tool_calls=[CALL])),
        (assistant("", tool_calls=[CALL]), assistant("", tool_calls=[{**CALL, "id": "c2"}])),
        (assistant("", tool_calls=[CALL]), assistant("", tool_calls=[{**CALL, "function": {"name": "sea"}}])),
        ({"role": "tool", "content": "1", "tool_call_id": "a"}, {"role": "tool", "content": "1", "tool_call_id": "b"}),
        (user([{"type": "image_url", "image_url": "a"}]), user([{"type": "image_url", "image_url": "b"}])),  # type: ignore[arg-type]
    ],
)
def test_another_message(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert _digest(one) != _digest(other)


def test_a_reply_is_the_message_that_the_client_brings_back() -> None:
    thought = "<think>\nhm\n</think>\n\nIt is warm."
    assert reply_item(thought, None, is_partial=False).digest == _digest(assistant("It is warm."))
    assert reply_item("", [{**CALL, "index": 0}], is_partial=False).digest == _digest(
        {"role": "assistant", "content": None, "tool_calls": [CALL]}
    )


def test_what_is_remembered() -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": "Be kind."},
        user("hello", name="Ann"),
        assistant("<think>only a thought</think>"),
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "12 degrees", "tool_call_id": "c1"},
        user(FENCE),
        assistant("It is warm."),
    ]
    items, places = items_of(messages, tool_results=False)
    assert places == [2, 3, 4, 5, 6, 7]
    told = [(item.message.role, item.message.content, item.message.name) for item in items if item.message]
    assert told == [("user", "hello", "Ann"), ("assistant", "It is warm.", None)]
    with_tools, _ = items_of(messages, tool_results=True)
    assert [item.message.content for item in with_tools if item.message] == ["hello", "12 degrees", "It is warm."]
    assert [item.digest for item in items] == [item.digest for item in with_tools]
    partial = reply_item("It is", None, is_partial=True).message
    assert partial is not None
    assert partial.metadata == {"partial": True}
    assert reply_item("<think>hm", None, is_partial=True).message is None


def test_a_message_without_injected_text_is_the_very_same() -> None:
    message = user("<memory>mine</memory>")
    assert without_injected(message) is message
    assert without_injected(user(f"{FENCE}\n\nhello"))["content"] == "hello"
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = without_injected({"role": "user", "content": [{"type": "text", "text": f"{FENCE}\n\n"}, image]})["content"]
    assert parts == [{"type": "text", "text": ""}, image]


@given(st.text(max_size=80), st.sampled_from(["user", "assistant"]))
def test_what_memory_injects_never_changes_a_message(text: str, role: str) -> None:
    message = {"role": role, "content": text}
    placed = {"role": role, "content": f"{FENCE}\n\n{text}"}
    assert _digest(placed) == _digest(message)
    assert without_injected(placed)["content"] == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats(allow_nan=True) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    )
)
def test_strange_parts_and_calls_are_no_accident(value: Any) -> None:
    for message in (
        user([value]),  # type: ignore[arg-type]
        user([{"type": "text", "text": value}]),  # type: ignore[arg-type]
        assistant("x", tool_calls=value),
        assistant("x", tool_calls=[{"function": {"arguments": value}}], tool_call_id=value),
    ):
        assert _digest(message) == _digest(dict(message))
        assert isinstance(text_of(message), str)
        assert isinstance(spoken_text(message), str)


def test_arguments_nested_without_end() -> None:
    assert _digest(assistant("", tool_calls=[{"function": {"arguments": "[" * 200_000}}]))

"""What memory keeps of an answer that goes by."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.serving.reply import ReplyWatch
from tests.support.upstream import chunk, completion


def _watch(*events: Any) -> ReplyWatch:
    watch = ReplyWatch()
    for event in events:
        watch.see_event(json.dumps(event).encode())
    return watch


def test_words_of_choice_0_alone_and_no_reasoning() -> None:
    watch = _watch(
        chunk({"content": "a"}), chunk({"content": "z"}, index=1), chunk({"reasoning_content": "r", "content": "b"})
    )
    assert watch.text == "ab"
    assert watch.finish_reason is None


def test_tool_calls_are_put_together() -> None:
    def piece(index: int, **fields: Any) -> dict[str, Any]:
        return chunk({"tool_calls": [{"index": index, **fields}]})

    watch = _watch(
        piece(0, id="a", type="function", function={"name": "f", "arguments": None}),
        piece(1, id="b", type="function", function={"name": "g", "arguments": ""}),
        piece(0, function={"arguments": '{"x"'}),
        piece(1, function={"arguments": "{}"}),
        piece(0, function={"arguments": ":1}"}),
        chunk({}, "tool_calls"),
    )
    assert watch.tool_calls == [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x":1}'}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    assert watch.finish_reason == "tool_calls"


def test_a_whole_answer_with_calls_that_have_no_index() -> None:
    watch = ReplyWatch()
    calls = [{"id": x, "type": "function", "function": {"name": x, "arguments": "{}"}} for x in "ab"]
    assert watch.see_answer(completion(None, "tool_calls", tool_calls=calls))
    assert watch.tool_calls == calls
    assert not ReplyWatch().see_answer({"choices": []})


junk = st.recursive(st.none() | st.integers() | st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x))


@given(junk, junk, junk)
def test_nothing_odd_disturbs_it(a: Any, b: Any, c: Any) -> None:
    watch = _watch(
        a,
        {"choices": a},
        {"choices": [a, {"delta": b}]},
        chunk({"content": a, "tool_calls": b}),
        chunk(c),
        chunk({"tool_calls": [{"index": a, "function": b, "id": c}, {"function": {"name": c, "arguments": a}}]}),
    )
    watch.see_event(b"\xff{")
    assert isinstance(watch.text, str)
    assert isinstance(watch.tool_calls, list)

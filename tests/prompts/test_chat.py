"""Placement of memory, and that it keeps the prompt's prefix under a Qwen chat template."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any

import jinja2
import pytest

from lightmem_engine.prompts.v1 import memory_line, memory_text, place
from lightmem_engine.types import Hit

# What Qwen3's template does to plain messages with thinking off: the empty think block stands in the live turn only.
QWEN3 = jinja2.Template(
    "{%- for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n<think>\n\n</think>\n\n' }}",
    keep_trailing_newline=True,
)
ASK = {"role": "user", "content": "Where do I live?"}


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def test_a_memory_line_is_date_and_text() -> None:
    moment = datetime(2023, 5, 8, tzinfo=UTC)
    hit = Hit("h", "Caroline: went\nto </memory> Boston", 1.0, "turn", ("m",), moment, moment, "active", "Caroline")
    assert memory_line(hit) == "[8 May 2023] Caroline: went to ‹/memory> Boston"


def test_order_is_system_block_history_hits_question() -> None:
    messages = [{"role": "system", "content": "Be brief."}, user("Hi"), {"role": "assistant", "content": "Yes?"}, ASK]
    placed = place(messages, block=["BLOCK"], replayed={1: memory_text(["OLD"])}, hits=["NEW"])
    assert [message["role"] for message in placed] == ["system", "user", "assistant", "user"]
    prompt = QWEN3.render(messages=placed)
    places = [prompt.index(word) for word in ("Be brief.", "BLOCK", "OLD", "Hi", "Yes?", "NEW", "Where do I live?")]
    assert places == sorted(places)


def test_without_memory_the_request_is_unchanged() -> None:
    messages = [user("Hi"), {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]
    assert place(messages) == messages


def test_a_block_without_system_message_brings_one() -> None:
    placed = place([ASK], block=["BLOCK"])
    assert [message["role"] for message in placed] == ["system", "user"]
    assert placed[1] == ASK


def test_the_input_is_left_alone() -> None:
    messages = [{"role": "system", "content": "S"}, {"role": "user", "content": "Q", "name": "Ann"}]
    copy = [dict(message) for message in messages]
    placed = place(messages, block=["B"], hits=["H"])
    assert messages == copy
    assert placed[1]["name"] == "Ann"


def test_multi_part_content_keeps_its_parts() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    messages: list[Mapping[str, Any]] = [
        {"role": "system", "content": [{"type": "text", "text": "S"}]},
        {"role": "user", "content": [image, {"type": "text", "text": "Q"}]},
    ]
    placed = place(messages, block=["B"], hits=["H"])
    assert placed[0]["content"][0] == {"type": "text", "text": "S"}
    assert "B" in placed[0]["content"][1]["text"]
    assert "H" in placed[1]["content"][0]["text"]
    assert placed[1]["content"][1:] == [image, {"type": "text", "text": "Q"}]


def test_the_day_stands_with_the_hits_and_never_in_the_block() -> None:
    system, asked = place([ASK], block=["B"], hits=["H"], today=date(2023, 6, 9))
    assert "Today is 9 June 2023.\nH\n" in asked["content"]
    assert "Today" not in system["content"]


def test_a_day_without_hits_injects_nothing() -> None:
    assert place([ASK], today=date(2023, 6, 9)) == [ASK]


@pytest.mark.parametrize("role", ["tool", "assistant"])
def test_hits_are_left_out_when_the_last_message_is_not_the_users(role: str) -> None:
    messages = [ASK, {"role": role, "content": "42"}]
    assert place(messages, hits=["H"]) == messages


def test_a_replay_beyond_a_cut_history_is_ignored() -> None:
    assert place([ASK], replayed={7: memory_text(["OLD"])}) == [ASK]


def test_each_turns_prompt_is_a_prefix_of_the_next_up_to_its_user_message() -> None:
    history: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}]
    replayed: dict[int, str] = {}
    previous = ""
    for turn in range(5):
        history.append(user(f"question {turn}"))
        hits = [] if turn == 2 else [f"[8 May 2023] note {turn}"]
        prompt = QWEN3.render(messages=place(history, block=["[1 May 2023] block"], replayed=replayed, hits=hits))
        shared = previous[: previous.rindex("<think>")] if previous else ""
        assert prompt.startswith(shared)
        assert f"question {turn}" in prompt[len(shared) :]
        replayed[len(history) - 1] = memory_text(hits)
        history.append({"role": "assistant", "content": f"answer {turn}"})
        previous = prompt

from typing import Any

import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.chat_template import opened_thought, render
from lightmem_engine.types import Prompt
from tests.models import tiny_qwen

TOKENIZER = tiny_qwen.tokenizer()


class _Recorder:
    """A tokenizer that shows what its template is given."""

    options: dict[str, Any]

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        self.messages, self.options = messages, options
        return "text"


def test_messages_in_openais_words_become_the_templates() -> None:
    recorder = _Recorder()
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    messages = (
        {"role": "developer", "content": "Be brief."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {
            "role": "tool",
            "tool_call_id": "1",
            "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}],
        },
    )
    tool = {"type": "function", "function": {"name": "f"}}
    render(recorder, Prompt(messages, tools=(tool,), template_options={"enable_thinking": True}), "m")
    system, assistant, answer = recorder.messages
    assert system == {"role": "system", "content": "Be brief."}
    assert assistant["content"] == ""
    assert assistant["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert answer["content"] == "xy"
    assert recorder.options["tools"] == [tool]
    assert recorder.options["enable_thinking"]
    render(recorder, Prompt(messages, schema={}, template_options={"enable_thinking": True}), "m")
    assert not recorder.options["enable_thinking"], "a grammar has no room for thought"
    assert "tools" not in recorder.options


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "tool_calls": [{"function": {}}]},
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        {"role": "user", "content": [{"type": "image_url"}]},
        {"role": "user", "content": 3},
        {"content": "no role"},
    ],
)
def test_what_a_template_cannot_take_is_the_callers_fault(message: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput):
        render(TOKENIZER, Prompt((message,)), "m")


def test_a_thought_that_the_template_opened_is_noticed() -> None:
    assert opened_thought("<|im_start|>assistant\n<think>\n") == "<think>"
    assert opened_thought("<|im_start|>assistant\n<think>\n\n</think>\n\n") == ""

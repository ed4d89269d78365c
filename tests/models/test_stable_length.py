"""What is kept of a prompt is what the next turn's prompt begins with, for each way in which Qwen's templates write."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from lightmem_engine.models.chat_template import render, stable_length
from lightmem_engine.types import Prompt
from tests.models import tiny_qwen

# As Qwen2.5 does: nothing is added, nothing left out.
PLAIN = """
{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{% endif %}
""".strip()
# As Qwen3 does: thoughts stand in the turns behind the last question only, and an empty one is written where thinking
# is off.
THINKING = """
{%- set found = namespace(last=-1) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set found.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
{%- set content = message.content %}
{%- set thought = message.reasoning_content if message.reasoning_content is defined else '' %}
{{- '<|im_start|>' + message.role + '\n' }}
{%- if message.role == 'assistant' and loop.index0 > found.last %}
{{- '<think>\n' + thought + '\n</think>\n\n' }}
{%- endif %}
{{- content + '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
""".strip()
# As newer ones do: the thought is opened for the model.
OPENED = THINKING.replace(
    "{%- if enable_thinking is defined", "{{- '<think>\n' }}{%- if false and enable_thinking is defined"
)
TEMPLATES = {"plain": PLAIN, "thinking": THINKING, "opened": OPENED, "house": tiny_qwen.TEMPLATE}

SYSTEM = {"role": "system", "content": "Remember what Caroline said."}
TURNS: list[dict[str, Any]] = [
    SYSTEM,
    {"role": "user", "content": "Where is Boston?"},
    {"role": "assistant", "content": "In the east.", "reasoning_content": "A city."},
    {"role": "user", "content": "And Denver?\n"},
    {"role": "assistant", "content": "I ask a tool.", "reasoning_content": "I need help."},
    {"role": "tool", "content": "In the west."},
]
REPLIES = ("In the west.", "\n\nIn the west.", "<think>\nHm.\n</think>\n\nIn the west.", "")


@pytest.mark.parametrize("thinking", [True, False])
@pytest.mark.parametrize("template", TEMPLATES)
def test_it_is_a_prefix_of_every_next_turn(template: str, thinking: bool) -> None:
    tokenizer = tiny_qwen.tokenizer()
    tokenizer.chat_template = TEMPLATES[template]

    def tokens(messages: Sequence[dict[str, Any]]) -> list[int]:
        text = render(tokenizer, Prompt(tuple(messages), template_options={"enable_thinking": thinking}), "test")
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    for count in (2, 4, 6):
        said = TURNS[:count]
        now = tokens(said)
        kept = stable_length(tokenizer, Prompt(tuple(said), template_options={"enable_thinking": thinking}), now)
        for reply in REPLIES:
            for question in ("And?", "\nYes"):
                following = [*said, {"role": "assistant", "content": reply}, {"role": "user", "content": question}]
                assert tokens(following)[:kept] == now[:kept]
        if said[-1]["role"] == "user":  # all of what was said, and no mark of the answer
            assert tokenizer.decode(now[:kept]).endswith("<|im_end|>\n")


def test_a_template_that_refuses_the_next_turn_keeps_nothing() -> None:
    tokenizer = tiny_qwen.tokenizer()
    tokenizer.chat_template = (
        "{% if messages|length > 1 %}{{ raise_exception('one') }}{% endif %}{{ messages[0].content }}"
    )
    assert stable_length(tokenizer, Prompt(({"role": "user", "content": "hi"},)), [1, 2]) == 0

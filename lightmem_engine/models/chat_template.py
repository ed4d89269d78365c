"""OpenAI's messages and tools as a Qwen chat template wants them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.prefix_cache import common_prefix
from lightmem_engine.types import Prompt

_THINK = "<think>"
_RESERVED = frozenset({"messages", "tools", "tokenize", "add_generation_prompt", "conversation", "chat_template"})


def render(tokenizer: Any, prompt: Prompt, name: str) -> str:
    """The text that the model continues. Thinking is off unless `template_options` asks for it.

    Raises `InvalidInput` for messages that the template refuses; `name` is the model's, for the message.
    """
    if not prompt.messages:
        raise InvalidInput("a prompt needs at least one message")
    reserved = _RESERVED & prompt.template_options.keys()
    if reserved:
        raise InvalidInput(f"chat_template_kwargs must not set {', '.join(sorted(reserved))}")
    try:
        return _apply(tokenizer, prompt.messages, prompt, add_generation_prompt=True)
    except (TemplateError, TypeError, ValueError) as error:
        raise InvalidInput(f"the chat template of {name} refuses these messages: {error}") from error


def stable_length(tokenizer: Any, prompt: Prompt, tokens: Sequence[int]) -> int:
    """How many of a prompt's tokens the next turn's prompt will begin with, whatever is answered; 0 if that cannot be
    told.

    Templates write the newest turns otherwise than older ones (an empty thought before the answer, thoughts that are
    left out later). So the next turn is written, with some answer and some question, and compared.
    """
    following = [*prompt.messages, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}]
    try:
        texts = [
            _apply(tokenizer, messages, prompt, add_generation_prompt=False)
            for messages in (prompt.messages, following)
        ]
    except (TemplateError, TypeError, ValueError, InvalidInput):
        return 0
    shared = list(tokens)
    for text in texts:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        shared = shared[: common_prefix(shared, ids)]
    return len(shared)


def opened_thought(text: str) -> str:
    """`<think>` if the template has opened it for the model, so that the answer can be read from its beginning."""
    return _THINK if text.rstrip().endswith(_THINK) else ""


def _apply(
    tokenizer: Any, messages: Sequence[Mapping[str, Any]], prompt: Prompt, *, add_generation_prompt: bool
) -> str:
    options = {"enable_thinking": False} | dict(prompt.template_options)
    if prompt.schema is not None:
        options["enable_thinking"] = False  # the grammar begins with the answer
    if prompt.tools:
        options["tools"] = [dict(tool) for tool in prompt.tools]
    said = [_message(message) for message in messages]
    options["add_generation_prompt"] = add_generation_prompt
    return str(tokenizer.apply_chat_template(said, tokenize=False, **options))


def _message(message: Mapping[str, Any]) -> dict[str, Any]:
    changed = {**message, "content": _text(message)}
    if message.get("role") == "developer":
        changed["role"] = "system"
    calls = message.get("tool_calls")
    if calls:
        changed["tool_calls"] = [_call(call) for call in calls]
    return changed


def _call(call: Any) -> dict[str, Any]:
    """A tool call whose arguments are an object, not its JSON text: templates print them."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InvalidInput("a tool call in messages needs a function with a name")
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError as error:
            raise InvalidInput(f"the arguments of tool call {function['name']!r} are no JSON: {error}") from error
    return {**call, "function": {**function, "arguments": arguments}}


def _text(message: Mapping[str, Any]) -> str:
    """The text of a message; Qwen's text templates would print a list of parts as it is."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, Sequence):
        raise InvalidInput("the content of a message must be text or a list of parts")
    parts = [part if isinstance(part, Mapping) else {} for part in content]
    if any(part.get("type") != "text" for part in parts):
        raise InvalidInput("this model reads text only; the request has other parts")
    return "".join(str(part.get("text", "")) for part in parts)

"""Messages of a request as memory sees them: checked, their text normalised, each with its digest. Pure.

What memory has injected and what a model thought aloud are no part of a message: both may come back from a client, or
not, and it is still the same message; neither is ever remembered. Only a fence that bears our own introduction counts
as injected, for a tag of that name may well be somebody's words.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from lightmem_engine.errors import InvalidInput
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.types import ChatItem, Message

SYSTEM_ROLES = ("system", "developer")
TOOL_ROLES = ("tool", "function")
_HEAD, _, _FOOT = prompts.memory_text(["\0"]).partition("\0")
_THOUGHT = re.compile(r"<think>.*?(?:</think>|\Z)", re.DOTALL)  # a reply may be cut within it


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """A non-empty list of objects with a role, or `InvalidInput` that says where it is not."""
    if not isinstance(messages, list | tuple) or not messages:
        raise InvalidInput("messages must be a non-empty list")
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise InvalidInput(f"messages[{index}] must be an object with a role")
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise InvalidInput(f"messages[{index}].content must be text or a list of parts")


def items_of(messages: Sequence[Mapping[str, Any]], *, tool_results: bool) -> tuple[list[ChatItem], list[int]]:
    """The request's messages but the system's, and the place of each in the request.

    tool_results: whether what tools return is to be remembered.
    """
    places = [index for index, message in enumerate(messages) if message["role"] not in SYSTEM_ROLES]
    return [_item(messages[index], tool_results) for index in places], places


def reply_item(text: str, tool_calls: Sequence[Mapping[str, Any]] | None, *, is_partial: bool) -> ChatItem:
    """A reply, as the client will bring it back."""
    metadata = {"partial": True} if is_partial else {}
    said = _said("assistant", text)
    message = Message("assistant", said, metadata=metadata) if said else None
    return ChatItem("assistant", said, _digest("assistant", said, {"tool_calls": tool_calls}, ()), message)


def without_injected(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """The message without memory that a client has brought back in it; the very same object if there is none."""
    content = message.get("content")
    if isinstance(content, str):
        return {**message, "content": _unfenced(content)} if _HEAD in content else message
    if isinstance(content, list) and _HEAD in text_of(message):
        return {**message, "content": [_part_without_injected(part) for part in content]}
    return message


def text_of(message: Mapping[str, Any]) -> str:
    """The text of a message; of many parts, the text parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if _is_text(part)) if isinstance(content, list) else ""


def spoken_text(message: Mapping[str, Any]) -> str:
    """The text of a message as it is remembered."""
    return _said(message["role"], text_of(message))


def _item(message: Mapping[str, Any], tool_results: bool) -> ChatItem:
    role, text = message["role"], spoken_text(message)
    content = message.get("content")
    others = [part for part in content if not _is_text(part)] if isinstance(content, list) else []
    name = message.get("name") if isinstance(message.get("name"), str) else None
    remembered: Message | None = None
    if text and role in ("user", "assistant"):
        remembered = Message(role, text, name=name)
    elif text and role in TOOL_ROLES and tool_results:
        # The log recalls what people and assistants say; a tool speaks for the assistant, under its own name.
        remembered = Message("assistant", text, name=name or "tool", metadata={"tool": True})
    return ChatItem(role, text, _digest(role, text, message, others), remembered)


def _said(role: str, text: str) -> str:
    if _HEAD in text:
        text = _unfenced(text)
    if role == "assistant" and "think>" in text:
        before, closes, after = text.partition("</think>")
        if closes and "<think>" not in before:  # the template has opened it
            text = after
        text = _THOUGHT.sub("", text)
    return text.strip()


def _unfenced(text: str) -> str:
    """Without the fences that memory has made, each with the empty line behind it. One pass, whatever the text."""
    kept, at = [], 0
    while (start := text.find(_HEAD, at)) >= 0 and (end := text.find(_FOOT, start + len(_HEAD))) >= 0:
        kept.append(text[at:start])
        at = end + len(_FOOT)
        at += 2 * text.startswith("\n\n", at)
    return "".join([*kept, text[at:]])


def _digest(role: str, text: str, message: Mapping[str, Any], others: Sequence[Any]) -> bytes:
    """Of all that makes a message another one: role, text, pictures and the like, calls of tools and their answers."""
    calls = message.get("tool_calls")
    told: list[Any] = [role, text, [_call(call) for call in calls] if isinstance(calls, list | tuple) else []]
    told += [message.get("tool_call_id"), list(others)]
    data = json.dumps(told, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=str)
    return hashlib.sha256(data.encode()).digest()


def _call(call: Any) -> Any:
    """A tool call without what servers and clients write differently: further fields, white space in the arguments."""
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping):
        return call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with contextlib.suppress(ValueError, RecursionError):  # cut off, or no JSON: told apart by its text
            arguments = json.loads(arguments)
    return [call.get("id"), function.get("name"), arguments]


def _is_text(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _part_without_injected(part: Any) -> Any:
    return {**part, "text": _unfenced(part["text"])} if _is_text(part) else part

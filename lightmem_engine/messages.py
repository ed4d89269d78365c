"""Messages from what callers hand in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lightmem_engine.errors import InvalidInput
from lightmem_engine.types import Message

MessageLike = Message | Mapping[str, Any]
_FIELDS = frozenset({"role", "content", "name", "timestamp", "id", "metadata"})


def as_messages(messages: MessageLike | Sequence[MessageLike]) -> list[Message]:
    """Messages from what callers hand in; `InvalidInput` names the place and the field."""
    if isinstance(messages, Message | Mapping):
        messages = [messages]
    if not isinstance(messages, list | tuple):
        raise InvalidInput("messages must be a message or a list of messages")
    return [_as_message(index, message) for index, message in enumerate(messages)]


def _as_message(index: int, message: MessageLike) -> Message:
    if isinstance(message, Message):
        return message
    if not isinstance(message, Mapping):
        raise InvalidInput(f"message {index} must be an object, not {type(message).__name__}")
    for field in ("role", "content"):
        if field not in message:
            raise InvalidInput(f"message {index} has no {field}")
    unknown = set(message) - _FIELDS
    if unknown:
        raise InvalidInput(f"message {index} has unknown fields: {', '.join(sorted(map(str, unknown)))}")
    return Message(**{**message, "metadata": message.get("metadata") or {}})

"""Watches an answer go by and keeps what memory wants of it: choice 0's words and tool calls."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class ReplyWatch:
    """Reads chunks or a whole answer. Reasoning is not kept; nothing malformed disturbs it."""

    def __init__(self) -> None:
        self.finish_reason: str | None = None
        self.failed = False  # an error event has gone by
        self.done = False  # `[DONE]` has gone by
        self._texts: list[str] = []
        self._calls: dict[int, dict[str, Any]] = {}

    @property
    def text(self) -> str:
        """The words of choice 0 so far."""
        return "".join(self._texts)

    @property
    def tool_calls(self) -> list[dict[str, Any]]:
        """The tool calls of choice 0, in OpenAI's shape, put together from their pieces."""
        return [call for _, call in sorted(self._calls.items())]

    def see_event(self, data: bytes) -> bool:
        """Take in the data of a stream's event; true if it is the one on which choice 0 finishes."""
        if data.strip() == b"[DONE]":
            self.done = True
            return False
        chunk = read_object(data)
        self.failed = self.failed or "error" in chunk
        return self._see(chunk, "delta")

    def see_answer(self, answer: Mapping[str, Any]) -> bool:
        """Take in a whole answer; true if it has a choice 0."""
        return self._see(answer, "message")

    def _see(self, data: Mapping[str, Any], part: str) -> bool:
        choices = data.get("choices")
        choice = next((c for c in choices if _is_first(c)), None) if isinstance(choices, list) else None
        if choice is None:
            return False
        said = choice.get(part)
        if isinstance(said, dict):
            if isinstance(said.get("content"), str):
                self._texts.append(said["content"])
            calls = said.get("tool_calls")
            for place, call in enumerate(calls if isinstance(calls, list) else ()):
                if isinstance(call, dict):
                    self._merge(call, place)
        reason = choice.get("finish_reason")
        first = self.finish_reason is None and isinstance(reason, str)
        if first:
            self.finish_reason = reason
        return first or part == "message"

    def _merge(self, piece: Mapping[str, Any], place: int) -> None:
        index = piece.get("index", place)
        call = self._calls.setdefault(index if isinstance(index, int) else place, {})
        for name, value in piece.items():
            if name == "function" and isinstance(value, dict):
                function = call.setdefault("function", {})
                for key, text in value.items():
                    grows = isinstance(text, str) and isinstance(function.get(key), str)
                    function[key] = function[key] + text if grows else text if text is not None else function.get(key)
            elif name != "index" and value is not None:
                call[name] = value


def read_object(data: bytes) -> dict[str, Any]:
    """A JSON object, or an empty one for anything else."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def _is_first(choice: Any) -> bool:
    return isinstance(choice, dict) and choice.get("index", 0) == 0

"""Reads Qwen's marks in what the model writes: `<think>…</think>` and `<tool_call>{json}</tool_call>`.

Text is taken in as it is streamed and given out as soon as it is certain; half a mark is never given out as text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

_MARKS = {"think": ("<think>", "</think>"), "call": ("<tool_call>", "</tool_call>")}


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model wants called; arguments as JSON text."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Spoken:
    """A piece of the answer."""

    kind: Literal["content", "reasoning"]
    text: str


Piece = Spoken | ToolCall


class OutputParser:
    """Splits one answer. Thought is only looked for at its beginning, calls only if `tools` are offered."""

    def __init__(self, *, tools: bool) -> None:
        self._tools = tools
        self._state: Literal["start", "think", "text", "call"] = "start"
        self._held = ""
        self._blank = ""  # white space that is dropped if a mark follows
        self._skip_blank = False  # a mark has just ended
        self.num_calls = 0

    def push(self, text: str) -> list[Piece]:
        """What is certain after this piece."""
        self._held += text
        return _joined(self._read(last=False))

    def finish(self) -> list[Piece]:
        """What is left; a call that was cut off is given out as the text it is."""
        return _joined(self._read(last=True))

    def _read(self, last: bool) -> Iterator[Piece]:
        while True:
            before = (self._state, self._held)
            match self._state:
                case "start":
                    self._begin(last)
                case "think":
                    yield from self._think(last)
                case "text":
                    yield from self._text(last)
                case "call":
                    yield from self._call(last)
            if (self._state, self._held) == before:
                return

    def _begin(self, last: bool) -> None:
        opening = _MARKS["think"][0]
        lead = self._held.lstrip()
        if lead.startswith(opening):
            self._held = lead[len(opening) :]
            self._state, self._skip_blank = "think", True
        elif last or not opening.startswith(lead):
            self._state = "text"

    def _think(self, last: bool) -> Iterator[Piece]:
        if self._after_mark():
            return
        certain, found = self._until(_MARKS["think"][1], last)
        certain = self._blank + certain
        body = certain if last and not found else certain.rstrip()
        self._blank = "" if found else certain[len(body) :]
        if body:
            yield Spoken("reasoning", body)
        if found:
            self._state, self._skip_blank = "text", True

    def _text(self, last: bool) -> Iterator[Piece]:
        if self._after_mark():
            return
        if not self._tools:
            text, self._held = self._held, ""
            if text:
                yield Spoken("content", text)
            return
        certain, found = self._until(_MARKS["call"][0], last)
        certain = self._blank + certain
        body = certain.rstrip() if not last or found else certain
        self._blank = "" if found else certain[len(body) :]
        if body:
            yield Spoken("content", body)
        if found:
            self._state = "call"

    def _after_mark(self) -> bool:
        """White space right after a mark belongs to the mark; true while only that has come."""
        if not self._skip_blank:
            return False
        self._held = self._held.lstrip()
        self._skip_blank = not self._held
        return self._skip_blank

    def _call(self, last: bool) -> Iterator[Piece]:
        opening, closing = _MARKS["call"]
        end = self._held.find(closing)
        if end < 0:
            if last:
                text, self._held, self._state = opening + self._held, "", "text"
                yield Spoken("content", text)
            return
        inside, self._held = self._held[:end], self._held[end + len(closing) :]
        self._state, self._skip_blank = "text", True
        call = parse_call(inside)
        if call is None:
            yield Spoken("content", f"{opening}{inside}{closing}")
            return
        self.num_calls += 1
        yield call

    def _until(self, mark: str, last: bool) -> tuple[str, bool]:
        """Text before the mark, and whether the mark is there; a possible beginning of it stays held."""
        at = self._held.find(mark)
        if at >= 0:
            text, self._held = self._held[:at], self._held[at + len(mark) :]
            return text, True
        cut = len(self._held) if last else len(self._held) - _overlap(self._held, mark)
        text, self._held = self._held[:cut], self._held[cut:]
        return text, False


def parse_call(written: str) -> ToolCall | None:
    """The call in `{"name": ..., "arguments": {...}}`, or None if it is not one."""
    try:
        call: Any = json.loads(written)
    except (ValueError, RecursionError):
        return None
    if not isinstance(call, dict) or not isinstance(call.get("name"), str):
        return None
    arguments = call.get("arguments", {})
    return ToolCall(
        call["name"], arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    )


def _joined(pieces: Iterator[Piece]) -> list[Piece]:
    """Neighbouring pieces of one kind as one."""
    joined: list[Piece] = []
    for piece in pieces:
        before = joined[-1] if joined else None
        if isinstance(piece, Spoken) and isinstance(before, Spoken) and before.kind == piece.kind:
            joined[-1] = Spoken(piece.kind, before.text + piece.text)
        else:
            joined.append(piece)
    return joined


def _overlap(text: str, mark: str) -> int:
    """Length of the longest end of the text that begins the mark."""
    return next((n for n in range(min(len(text), len(mark) - 1), 0, -1) if text.endswith(mark[:n])), 0)

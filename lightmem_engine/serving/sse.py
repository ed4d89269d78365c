"""Server-sent events, byte for byte: found in a stream, read, and written anew where something is added."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from lightmem_engine.errors import ModelError

DONE = b"data: [DONE]\n\n"
MAX_EVENT_BYTES = 8 * 1024 * 1024

_LINE_END = re.compile(rb"\r\n|\n|\r")
_EVENT_END = re.compile(rb"(?>\r\n|\n|\r)(?>\r\n|\n|\r)")
_LONGEST_END = 4


class EventSplitter:
    """Cuts a stream into events. What it gives out, joined, is what it took in."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> list[bytes]:
        """The events that are complete now, each with the blank line that ends it.

        Raises `ModelError` if one event does not end within 8 MiB.
        """
        start = max(0, len(self._held) - _LONGEST_END)
        self._held += piece
        events: list[bytes] = []
        begin = 0
        for end in _EVENT_END.finditer(self._held, start):
            events.append(self._held[begin : end.end()])
            begin = end.end()
        self._held = self._held[begin:]
        if len(self._held) > MAX_EVENT_BYTES:
            raise ModelError(f"an event of the stream is longer than {MAX_EVENT_BYTES} bytes")
        return events

    def rest(self) -> bytes:
        """What no blank line has ended."""
        rest, self._held = self._held, b""
        return rest


def data_of(event: bytes) -> bytes | None:
    """The data of an event, its lines joined; None for a comment or another field alone."""
    lines = [line[5:].removeprefix(b" ") for line in _LINE_END.split(event) if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def with_member(text: bytes, name: str, value: Mapping[str, Any]) -> bytes:
    """The text of a JSON object with one more member at its end, every other byte as it was.

    A member of that name is replaced, which writes the object anew.
    """
    parsed = json.loads(text)
    end = text.rindex(b"}")
    if name in parsed or not parsed:
        return compact({**parsed, name: value})
    return text[:end] + b"," + compact(name) + b":" + compact(value) + text[end:]


def event_with_member(event: bytes, data: bytes, name: str, value: Mapping[str, Any]) -> bytes:
    """An event whose data, a JSON object, gains a member; its other lines and its line ends stay."""
    changed = with_member(data, name, value)
    if event.count(data) == 1 and b"\n" not in changed and b"\r" not in changed:
        return event.replace(data, changed)
    others = [line for line in _LINE_END.split(event) if line and not line.startswith(b"data:")]
    return b"".join(line + b"\n" for line in others) + event_of(json.loads(changed))


def event_of(data: Mapping[str, Any]) -> bytes:
    """One event that holds a JSON object."""
    return b"data: " + compact(data) + b"\n\n"


def compact(value: Any) -> bytes:
    """JSON without spaces, in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "backslashreplace")

"""The lines of an export, read and checked: what they may say, and that they agree with each other. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from lightmem_engine.errors import InvalidInput
from lightmem_engine.names import MAX_NAME
from lightmem_engine.stores.portable import FORMAT, VERSION
from lightmem_engine.types import KINDS, ROLES, STATES

Check = Callable[[Any], bool]
Row = Mapping[str, Any]
_MAX = 2**53
LINKS = ("duplicate", "merged", "split", "summary", "recalled")

_ID = re.compile(r"[\w.:-]{1,64}")


@dataclass(slots=True)
class UserRecords:
    """One user's lines by type, in the order of the file."""

    user: str
    messages: list[Row] = field(default_factory=list)
    sessions: list[Row] = field(default_factory=list)
    segments: list[Row] = field(default_factory=list)
    sensed: list[Row] = field(default_factory=list)
    entries: list[Row] = field(default_factory=list)
    links: list[Row] = field(default_factory=list)
    parked: list[Row] = field(default_factory=list)
    cursors: list[Row] = field(default_factory=list)
    by_id: dict[str, Row] = field(default_factory=dict)  # messages
    firsts: dict[str, Row] = field(default_factory=dict)  # the first version of each entry
    segment_numbers: set[int] = field(default_factory=set)
    sensed_messages: set[str] = field(default_factory=set)
    versions: dict[str, int] = field(default_factory=dict)  # the newest of each entry


def read(lines: Iterable[bytes]) -> Iterator[UserRecords]:
    """Users of an export file, one after the other; at most one is in memory.

    Raises `InvalidInput` that names the line.
    """
    done: set[str] = set()
    current: UserRecords | None = None
    begun = False
    number = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        row = _row(number, line)
        if not begun:
            _check_header(number, row)
            begun = True
            continue
        kind = _check_row(number, row)
        if current is None or row["user"] != current.user:
            if current is not None:
                done.add(current.user)
                yield current
            if row["user"] in done:
                raise InvalidInput(f"line {number}: the lines of user {row['user']!r} do not stand together")
            current = UserRecords(row["user"])
        _agree(number, current, kind, row)
        getattr(current, _LISTS[kind]).append(row)
    if not begun:
        raise InvalidInput(f"line {max(1, number)}: there is no header; an export begins with one")
    if current is not None:
        yield current


def moment(text: str) -> datetime:
    """An ISO 8601 time that has been checked."""
    return datetime.fromisoformat(text)


def _row(number: int, line: bytes) -> Row:
    try:
        text = line.decode()
        row = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
        json.dumps(row, ensure_ascii=False).encode()  # half a character pair cannot be stored
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"line {number}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InvalidInput(f"line {number}: a line must be an object, not {type(row).__name__}")
    return row


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits} is too large")
    return value


def _check_header(number: int, row: Row) -> None:
    if row.get("type") != "header" or row.get("format") != FORMAT:
        raise InvalidInput(f"line {number}: there is no header; an export begins with one")
    if row.get("version") != VERSION:
        raise InvalidInput(f"line {number}: version {row.get('version')!r} of the format is not known, only {VERSION}")


def _check_row(number: int, row: Row) -> str:
    kind = row.get("type")
    fields = _FIELDS.get(kind) if isinstance(kind, str) else None
    if fields is None:
        raise InvalidInput(f"line {number}: unknown type {kind!r}")
    odd = set(row) ^ {"type", *fields}
    if odd:
        raise InvalidInput(f"line {number}: {kind}: missing or unknown fields: {', '.join(sorted(odd))}")
    for name, check in fields.items():
        if not check(row[name]):
            raise InvalidInput(f"line {number}: {kind}.{name}: {json.dumps(row[name])[:80]} cannot be")
    return str(kind)


def _agree(number: int, known: UserRecords, kind: str, row: Row) -> None:
    """What a line refers to must have come before it, and nothing may come twice."""

    def demand(condition: bool, what: str) -> None:
        if not condition:
            raise InvalidInput(f"line {number}: {kind}: {what}")

    messages, segments = known.by_id, known.segment_numbers
    match kind:
        case "message":
            demand(row["id"] not in messages, "its id comes twice")
            messages[row["id"]] = row
        case "session":
            demand(all(other["session"] != row["session"] for other in known.sessions), "it comes twice")
        case "segment":
            demand(row["segment"] not in segments, "its number comes twice")
            segments.add(row["segment"])
        case "sensed":
            demand(row["message"] in messages, f"there is no message {row['message']!r} before it")
            demand(row["message"] not in known.sensed_messages, "it comes twice")
            demand(row["segment"] is None or row["segment"] in segments, "there is no such segment before it")
            length = len(messages[row["message"]]["content"])
            demand(bool(row["pieces"]), "it has no pieces")
            demand(all(piece["start"] < piece["end"] <= length for piece in row["pieces"]), "a piece is out of place")
            starts = [piece["start"] for piece in row["pieces"]]
            demand(len(set(starts)) == len(starts), "a piece comes twice")
            known.sensed_messages.add(row["message"])
        case "entry":
            demand(row["version"] == known.versions.get(row["id"], 0) + 1, "its versions do not follow each other")
            demand(row["segment"] is None or row["segment"] in segments, "there is no such segment before it")
            places = {(source["message"], source["start"]) for source in row["sources"]}
            demand(len(places) == len(row["sources"]) > 0, "it has no sources, or one of them twice")
            where = "a source is out of place"
            for source in row["sources"]:
                demand(source["message"] in messages, f"there is no message {source['message']!r} before it")
                demand(source["start"] <= source["end"] <= len(messages[source["message"]]["content"]), where)
            known.versions[row["id"]] = row["version"]
            known.firsts.setdefault(row["id"], row)
        case "link":
            demand(0 < row["version"] <= known.versions.get(row["entry"], 0), "there is no such entry before it")
        case "parked":
            named = row["message"] in messages if row["stage"] == "sense" else row["segment"] in segments
            demand(named, "what is parked did not come before it")
        case "cursor":
            demand(row["message"] in messages and not known.cursors, "it names no message, or comes twice")


def _text(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


def _name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and len(value) <= MAX_NAME and value.isprintable()


def _number(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX


def _real(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _time(value: Any) -> bool:
    try:
        if not isinstance(value, str) or datetime.fromisoformat(value).utcoffset() is None:
            return False
        datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        return False
    return True


def _or_none(check: Check) -> Check:
    return lambda value: value is None or check(value)


def _one_of(*values: str) -> Check:
    return lambda value: isinstance(value, str) and value in values


def _list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _object(**fields: Check) -> Check:
    return lambda value: (
        isinstance(value, dict) and value.keys() == fields.keys() and all(fields[name](value[name]) for name in fields)
    )


def _mapping(value: Any) -> bool:
    return isinstance(value, dict)


_FIELDS: dict[str, dict[str, Check]] = {
    "message": {
        "user": _name,
        "id": _text,
        "session": _name,
        "role": _one_of(*ROLES),
        "speaker": _text,
        "content": _text,
        "event_time": _time,
        "recorded_at": _time,
        "metadata": _mapping,
        "digest": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
        "superseded_at": _or_none(_time),
    },
    "session": {"user": _name, "session": _name, "decided": _number},
    "segment": {
        "user": _name,
        "segment": _number,
        "session": _name,
        "num_tokens": _number,
        "state": _one_of("closed", "extracted", "parked"),
        "closed_at": _time,
    },
    "sensed": {
        "user": _name,
        "message": _text,
        "segment": _or_none(_number),
        "attention": _or_none(_real),
        "mass": _or_none(_real),
        "num_tokens": _number,
        "pieces": _list_of(_object(start=_number, end=_number, text=lambda value: isinstance(value, str))),
    },
    "entry": {
        "user": _name,
        "id": lambda value: isinstance(value, str) and bool(_ID.fullmatch(value)),
        "version": _number,
        "kind": _one_of(*KINDS),
        "text": _text,
        "event_time": _time,
        "valid_to": _or_none(_time),
        "recorded_at": _time,
        "superseded_at": _or_none(_time),
        "run_id": _or_none(_text),
        "state": _one_of(*(state for state in STATES if state != "pending")),
        "segment": _or_none(_number),
        "session": _name,
        "speaker": _text,
        "role": _one_of(*ROLES),
        "tags": _list_of(_text),
        "metadata": _mapping,
        "sources": _list_of(_object(message=_text, start=_number, end=_number)),
    },
    "link": {"user": _name, "entry": _text, "version": _number, "other": _text, "kind": _one_of(*LINKS)},
    "parked": {
        "user": _name,
        "stage": _one_of("sense", "extract"),
        "message": _or_none(_text),
        "segment": _or_none(_number),
        "error": lambda value: isinstance(value, str),
        "attempts": _number,
        "since": _time,
    },
    "cursor": {"user": _name, "message": _text},
}
_LISTS = {
    "message": "messages",
    "session": "sessions",
    "segment": "segments",
    "sensed": "sensed",
    "entry": "entries",
    "link": "links",
    "parked": "parked",
    "cursor": "cursors",
}

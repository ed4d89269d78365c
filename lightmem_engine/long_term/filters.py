"""The filter grammar: which entries a search may return. Compiled once, applied before the cut to `top_k`.

    {"kind": "fact", "tags": {"in": ["work", "home"]}, "OR": [{"city": "Rome"}, {"NOT": {"year": {"lt": 2020}}}]}

A field takes a value (meaning `eq`) or `{op: value}` with eq ne gt gte lt lte in nin contains; several fields and
several ops must all hold. AND and OR take lists of filters, NOT one filter. Fields: `kind`, `speaker` (letter case
does not matter), `session_id`, `tags` (eq, ne, contains: one tag; in, nin: any of them), `event_time`, and any other
name for a metadata key (`metadata.x` reaches a key that is called like one of these). `event_time` takes ISO 8601
text, Unix seconds or a datetime; a date without a time means that day as the speaker lived it. A missing metadata key
equals null, is ordered nowhere and contains nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmem_engine.errors import InvalidInput
from lightmem_engine.types import KINDS, Columns

Mask = npt.NDArray[np.bool_]
Filter = Callable[[Columns], Mask]
_Test = Callable[[Any], bool]

MAX_DEPTH = 8
MAX_CONDITIONS = 64
MAX_VALUES = 1000
MAX_TEXT = 1000

_OPS = ("eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains")
_ORDERED = ("gt", "gte", "lt", "lte")
_NAMED = ("eq", "ne", "in", "nin", "contains")
_JOINS = ("AND", "OR", "NOT")
_MISSING = np.iinfo(np.int64).min


def compile_filter(filters: Mapping[str, Any]) -> Filter:
    """A function from columns to bool [slots]. Anything outside the grammar raises `InvalidInput` that says where."""
    budget = [MAX_CONDITIONS]
    return _group(filters, "filters", 1, budget)


def _group(filters: Any, where: str, depth: int, budget: list[int]) -> Filter:
    _require(isinstance(filters, Mapping), f"{where} must be an object")
    _require(depth <= MAX_DEPTH, f"{where}: filters nest deeper than {MAX_DEPTH}")
    parts: list[Filter] = []
    for field, value in filters.items():
        _require(isinstance(field, str) and bool(field), f"{where}: a field must be a non-empty string")
        at = f"{where}.{field}"
        if field in _JOINS:
            parts.append(_join(field, value, at, depth + 1, budget))
        else:
            parts += _conditions(field, value, at, budget)
    return _all(parts)


def _join(name: str, value: Any, where: str, depth: int, budget: list[int]) -> Filter:
    if name == "NOT":
        inner = _group(value, where, depth, budget)
        return lambda columns: ~inner(columns)
    _require(isinstance(value, Sequence) and not isinstance(value, str), f"{where} must be a list of filters")
    _require(bool(value), f"{where} is empty")
    parts = [_group(item, f"{where}[{i}]", depth, budget) for i, item in enumerate(value)]
    if name == "AND":
        return _all(parts)
    return lambda columns: np.logical_or.reduce([part(columns) for part in parts])


def _all(parts: Sequence[Filter]) -> Filter:
    def mask(columns: Columns) -> Mask:
        result = np.ones(len(columns.live), np.bool_)
        for part in parts:
            result &= part(columns)
        return result

    return mask


def _conditions(field: str, value: Any, where: str, budget: list[int]) -> list[Filter]:
    ops = value if isinstance(value, Mapping) else {"eq": value}
    _require(bool(ops), f"{where} has no condition")
    parts = []
    for op, operand in ops.items():
        _require(op in _OPS, f"{where}: unknown operator {op!r}, expected one of {', '.join(_OPS)}")
        budget[0] -= 1
        _require(budget[0] >= 0, f"{where}: more than {MAX_CONDITIONS} conditions")
        _check_operand(op, operand, where)
        parts.append(_condition(field, op, operand, f"{where}.{op}"))
    return parts


def _condition(field: str, op: str, operand: Any, where: str) -> Filter:
    if field == "event_time":
        return _event_time(op, operand, where)
    if field == "tags":
        return _tags(op, operand, where)
    if field in ("kind", "speaker", "session_id"):
        return _name(field, op, operand, where)
    key = field.removeprefix("metadata.")
    test = _value_test(op, operand)
    return lambda columns: np.fromiter((test(m.get(key)) for m in columns.metadata), np.bool_, len(columns.metadata))


def _check_operand(op: str, operand: Any, where: str) -> None:
    if op in ("in", "nin"):
        _require(isinstance(operand, Sequence) and not isinstance(operand, str), f"{where}: {op} takes a list")
        _require(len(operand) <= MAX_VALUES, f"{where}: {op} takes at most {MAX_VALUES} values")
        values = list(operand)
    else:
        values = [operand]
    for value in values:
        scalar = value is None or isinstance(value, str | bool | int | float | dt.datetime)
        _require(scalar, f"{where}: {op} takes a string, number, boolean or null, not {type(value).__name__}")
        _require(not isinstance(value, str) or len(value) <= MAX_TEXT, f"{where}: text longer than {MAX_TEXT}")
    ordered = isinstance(operand, str | int | float | dt.datetime) and not isinstance(operand, bool)
    _require(op not in _ORDERED or ordered, f"{where}: {op} takes a string or a number")


def _value_test(op: str, operand: Any) -> _Test:
    """Metadata values compare within their own type only: text with text, numbers with numbers, true with true."""
    if op == "eq":
        return lambda value: _same(value, operand)
    if op == "ne":
        return lambda value: not _same(value, operand)
    if op == "in":
        return lambda value: any(_same(value, item) for item in operand)
    if op == "nin":
        return lambda value: not any(_same(value, item) for item in operand)
    if op == "contains":
        return lambda value: _contains(value, operand)
    return lambda value: _rank_of(value) == _rank_of(operand) != 0 and _compare(op, value, operand)


def _same(value: Any, operand: Any) -> bool:
    return isinstance(value, bool) == isinstance(operand, bool) and bool(value == operand)


def _contains(value: Any, operand: Any) -> bool:
    if isinstance(value, str):
        return isinstance(operand, str) and operand in value
    return isinstance(value, list | tuple) and any(_same(item, operand) for item in value)


def _rank_of(value: Any) -> int:
    """1 for numbers, 2 for text, 0 for what has no order."""
    if isinstance(value, bool):
        return 0
    return 1 if isinstance(value, int | float) else 2 if isinstance(value, str) else 0


def _compare(op: str, value: Any, operand: Any) -> Any:
    match op:
        case "gt":
            return value > operand
        case "gte":
            return value >= operand
        case "lt":
            return value < operand
        case "lte":
            return value <= operand
        case "eq":
            return value == operand
    return value != operand


def _name(field: str, op: str, operand: Any, where: str) -> Filter:
    _require(op in _NAMED, f"{where}: {field} knows {', '.join(_NAMED)}")
    values = list(operand) if op in ("in", "nin") else [operand]
    _require(all(isinstance(value, str) for value in values), f"{where}: {field} is compared with text")
    if field == "kind":
        _require(op != "contains", f"{where}: kind does not know contains")
        unknown = [value for value in values if value not in KINDS]
        _require(not unknown, f"{where}: no such kind {unknown[:1]}, expected one of {', '.join(KINDS)}")
    fold = str.casefold if field == "speaker" else str
    test = _value_test(op, [fold(v) for v in values] if op in ("in", "nin") else fold(values[0]))

    def mask(columns: Columns) -> Mask:
        names, codes = _coded(field, columns)
        passes = np.array([test(fold(name)) for name in names], np.bool_)
        return np.asarray(passes[codes], np.bool_)

    return mask


def _coded(field: str, columns: Columns) -> tuple[Sequence[str], npt.NDArray[Any]]:
    if field == "kind":
        return KINDS, columns.kind
    if field == "speaker":
        return columns.speakers, columns.speaker
    return columns.sessions, columns.session


def _tags(op: str, operand: Any, where: str) -> Filter:
    _require(op in _NAMED, f"{where}: tags knows {', '.join(_NAMED)}")
    wanted = set(operand) if op in ("in", "nin") else {operand}
    _require(all(isinstance(tag, str) for tag in wanted), f"{where}: a tag is text")
    negated = op in ("ne", "nin")
    return lambda columns: np.fromiter(
        ((not wanted.isdisjoint(tags)) != negated for tags in columns.tags), np.bool_, len(columns.tags)
    )


def _event_time(op: str, operand: Any, where: str) -> Filter:
    _require(op != "contains", f"{where}: event_time does not know contains")
    if op in ("in", "nin"):
        parts = [_moment("eq", item, where) for item in operand]

        def mask(columns: Columns) -> Mask:
            found = np.zeros(len(columns.live), np.bool_)
            for part in parts:
                found |= part(columns)
            return found if op == "in" else ~found

        return mask
    return _moment(op, operand, where)


def _moment(op: str, operand: Any, where: str) -> Filter:
    """One comparison on the time axis; entries without an event time satisfy only `ne`."""
    day = _day(operand)
    if day is not None:
        return lambda columns: _timed(op, _compare(op, columns.day, day), columns)
    instant = _instant(operand, where)
    return lambda columns: _timed(op, _compare(op, columns.event_time, instant), columns)


def _timed(op: str, mask: Mask, columns: Columns) -> Mask:
    known = columns.event_time != _MISSING
    return np.asarray(mask | ~known if op == "ne" else mask & known, np.bool_)


def _day(operand: Any) -> int | None:
    if isinstance(operand, str) and len(operand.strip()) <= len("2023-05-08"):
        try:
            return dt.date.fromisoformat(operand.strip()).toordinal()
        except ValueError:
            return None
    return None


def _instant(operand: Any, where: str) -> int:
    """Milliseconds since 1970; a time without an offset is UTC."""
    _require(operand is not None and not isinstance(operand, bool), f"{where}: event_time is compared with a time")
    try:
        if isinstance(operand, str):
            operand = dt.datetime.fromisoformat(operand.strip())
        if isinstance(operand, dt.datetime):
            operand = (operand if operand.tzinfo else operand.replace(tzinfo=dt.UTC)).timestamp()
        return round(float(operand) * 1000)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"{where}: not a time: {operand!r}") from error


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise InvalidInput(message)

"""A search as it was asked for, checked. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lightmem_engine.errors import InvalidInput
from lightmem_engine.long_term.filters import Filter, compile_filter
from lightmem_engine.long_term.rank import Strategy

MAX_QUERY_CHARS = 32_000
MAX_TOP_K = 1000
_MAX_TOKENS = 1 << 30


@dataclass(frozen=True, slots=True)
class Request:
    """What to find, apart from whose it is."""

    query: str
    top_k: int
    max_tokens: int | None
    as_of: datetime | None
    filter: Filter | None
    strategy: Strategy


def checked(
    query: str,
    top_k: int,
    max_tokens: int | None,
    as_of: datetime | None,
    filters: Mapping[str, Any] | None,
    strategy: Strategy,
) -> Request:
    """The request, or `InvalidInput` that names what is wrong with it."""
    return Request(
        _checked_query(query),
        _checked_count("top_k", top_k, MAX_TOP_K),
        None if max_tokens is None else _checked_count("max_tokens", max_tokens, _MAX_TOKENS),
        _checked_moment(as_of),
        None if filters is None else compile_filter(filters),
        strategy,
    )


def _checked_query(query: str) -> str:
    if not isinstance(query, str) or not query.strip():
        raise InvalidInput("query must be a non-empty string")
    if len(query) > MAX_QUERY_CHARS:
        raise InvalidInput(f"query has {len(query)} characters, more than {MAX_QUERY_CHARS}")
    return query


def _checked_count(name: str, value: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidInput(f"{name} must be a whole number from 1 to {most}, not {value!r}")
    return value


def _checked_moment(as_of: datetime | None) -> datetime | None:
    if as_of is not None and (not isinstance(as_of, datetime) or as_of.tzinfo is None):
        raise InvalidInput("as_of must be a datetime with a time zone")
    return as_of

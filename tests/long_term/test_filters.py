"""The filter grammar, against an evaluator that looks at one entry at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.errors import InvalidInput
from lightmem_engine.long_term.filters import MAX_CONDITIONS, MAX_DEPTH, compile_filter
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.types import IndexDoc

START = datetime(2023, 5, 8, 12, tzinfo=UTC)
DOCS = [
    IndexDoc(
        "put",
        f"e{i}",
        f"r{i}",
        session=f"s{i % 3}",
        kind=("turn", "fact", "event")[i % 3],
        speaker=("Ann", "bob")[i % 2],
        text="x",
        event_time=None if i == 11 else START + timedelta(days=i),
        tags=(("work",), ("home", "work"), ())[i % 3],
        metadata=({}, {"city": "Rome", "year": 2020 + i}, {"city": None, "likes": ["tea", 7], "year": "old"})[i % 3],
    )
    for i in range(12)
]


def select(filters: Mapping[str, Any]) -> list[int]:
    index = UserIndex(4)
    index.apply(DOCS, 1)
    found: list[int] = np.flatnonzero(compile_filter(filters)(index.columns())).tolist()
    return found


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, list(range(12))),
        ({"kind": "fact"}, [1, 4, 7, 10]),
        ({"kind": {"nin": ["fact", "event"]}}, [0, 3, 6, 9]),
        ({"speaker": "ANN", "session_id": "s0"}, [0, 6]),
        ({"speaker": {"contains": "O"}}, [1, 3, 5, 7, 9, 11]),
        ({"tags": "home"}, [1, 4, 7, 10]),
        ({"tags": {"in": ["home", "nothing"]}}, [1, 4, 7, 10]),
        ({"tags": {"nin": ["home", "work"]}}, [2, 5, 8, 11]),
        ({"tags": {"contains": "work", "ne": "home"}}, [0, 3, 6, 9]),
        ({"city": "Rome"}, [1, 4, 7, 10]),
        ({"city": None}, [0, 2, 3, 5, 6, 8, 9, 11]),
        ({"city": {"ne": "Rome"}}, [0, 2, 3, 5, 6, 8, 9, 11]),
        ({"city": {"contains": "om"}}, [1, 4, 7, 10]),
        ({"likes": {"contains": "tea"}}, [2, 5, 8, 11]),
        ({"likes": {"contains": 7}}, [2, 5, 8, 11]),
        ({"year": {"gt": 2021, "lte": 2027}}, [4, 7]),
        ({"year": {"gte": "n"}}, [2, 5, 8, 11]),
        ({"year": {"in": [2021, 2030, True]}}, [1, 10]),
        ({"metadata.kind": None}, list(range(12))),
        ({"event_time": {"lt": "2023-05-10"}}, [0, 1]),
        ({"event_time": {"lte": "2023-05-10"}}, [0, 1, 2]),
        ({"event_time": "2023-05-10"}, [2]),
        ({"event_time": {"gt": "2023-05-16T12:00:00Z"}}, [9, 10]),
        ({"event_time": {"gte": "2023-05-16T14:00:00+02:00"}}, [8, 9, 10]),
        ({"event_time": {"gte": (START + timedelta(days=9)).timestamp()}}, [9, 10]),
        ({"event_time": {"in": ["2023-05-08", START + timedelta(days=3)]}}, [0, 3]),
        ({"event_time": {"ne": "2023-05-08"}}, list(range(1, 12))),
        ({"OR": [{"kind": "fact"}, {"session_id": "s0"}], "speaker": "Ann"}, [0, 4, 6, 10]),
        ({"NOT": {"OR": [{"kind": "fact"}, {"kind": "turn"}]}}, [2, 5, 8, 11]),
        ({"AND": [{"year": {"gte": 2024}}, {"NOT": {"year": 2030}}]}, [4, 7]),
    ],
)
def test_selects(filters: Mapping[str, Any], expected: list[int]) -> None:
    assert select(filters) == expected


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ([], "filters must be an object"),
        ({"year": {"above": 3}}, r"filters.year: unknown operator 'above'"),
        ({"year": {"gt": None}}, "gt takes a string or a number"),
        ({"year": {"gt": True}}, "gt takes a string or a number"),
        ({"year": {}}, "no condition"),
        ({"year": [1, 2]}, "not list"),
        ({"year": {"in": "abc"}}, "in takes a list"),
        ({"year": {"in": [[1]]}}, "not list"),
        ({"year": {"in": list(range(1001))}}, "at most 1000"),
        ({"city": "x" * 1001}, "longer than 1000"),
        ({"": 1}, "non-empty"),
        ({"kind": "gossip"}, "no such kind"),
        ({"kind": {"gt": "fact"}}, "kind knows"),
        ({"kind": {"contains": "fact"}}, "does not know contains"),
        ({"speaker": 3}, "compared with text"),
        ({"tags": {"gt": "a"}}, "tags knows"),
        ({"tags": 3}, "a tag is text"),
        ({"event_time": "yesterday"}, "not a time"),
        ({"event_time": {"gt": float("inf")}}, "not a time"),
        ({"event_time": None}, "compared with a time"),
        ({"event_time": {"contains": "2023"}}, "does not know contains"),
        ({"AND": {"kind": "fact"}}, "must be a list"),
        ({"OR": []}, "is empty"),
        ({"OR": [3]}, r"filters.OR\[0\] must be an object"),
        ({"NOT": ["x"]}, "must be an object"),
        ({"OR": [{"kind": "fact"}] * (MAX_CONDITIONS + 1)}, "more than 64 conditions"),
    ],
)
def test_refuses(filters: Any, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        compile_filter(filters)


def test_refuses_deep_nesting() -> None:
    filters: dict[str, Any] = {"kind": "fact"}
    for _ in range(MAX_DEPTH):
        filters = {"NOT": filters}
    with pytest.raises(InvalidInput, match="nest deeper"):
        compile_filter(filters)


conditions = st.one_of(
    st.builds(
        lambda op, value: {"kind": {op: value}}, st.sampled_from(["eq", "ne"]), st.sampled_from(["turn", "fact"])
    ),
    st.builds(
        lambda op, value: {"year": {op: value}},
        st.sampled_from(["eq", "ne", "gt", "gte", "lt", "lte"]),
        st.one_of(st.integers(2018, 2033), st.sampled_from(["old", "o"])),
    ),
    st.builds(
        lambda op, values: {"tags": {op: values}},
        st.sampled_from(["in", "nin"]),
        st.lists(st.sampled_from(["work", "home", "x"])),
    ),
)
trees = st.recursive(
    conditions,
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"AND": parts}),
        st.lists(inner, min_size=1, max_size=3).map(lambda parts: {"OR": parts}),
        inner.map(lambda part: {"NOT": part}),
    ),
    max_leaves=8,
)


def naive(filters: Mapping[str, Any], doc: IndexDoc) -> bool:
    for field, value in filters.items():
        match field:
            case "AND":
                passed = all(naive(part, doc) for part in value)
            case "OR":
                passed = any(naive(part, doc) for part in value)
            case "NOT":
                passed = not naive(value, doc)
            case _:
                ((op, operand),) = value.items()
                passed = naive_condition(field, op, operand, doc)
        if not passed:
            return False
    return True


def naive_condition(field: str, op: str, operand: Any, doc: IndexDoc) -> bool:
    if field == "tags":
        return bool(set(doc.tags) & set(operand)) == (op == "in")
    value: Any = doc.kind if field == "kind" else doc.metadata.get(field)
    if op in ("eq", "ne"):
        return bool((value == operand) == (op == "eq"))
    if type(value) is not type(operand):
        return False
    return bool({"gt": value > operand, "gte": value >= operand, "lt": value < operand, "lte": value <= operand}[op])


@given(trees)
def test_equals_a_naive_evaluator(filters: Mapping[str, Any]) -> None:
    try:
        compile_filter(filters)
    except InvalidInput as error:
        assert "nest deeper" in str(error)  # noqa: PT017
        return
    assert select(filters) == [i for i, doc in enumerate(DOCS) if naive(filters, doc)]


def test_metadata_survives_a_relabel() -> None:
    index = UserIndex(4)
    index.apply(DOCS, 1)
    index.apply([dataclasses.replace(DOCS[0], metadata={"city": "Oslo"})], 2)
    assert np.flatnonzero(compile_filter({"city": "Oslo"})(index.columns())).tolist() == [0]

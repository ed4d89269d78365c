"""Strict JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.errors import InvalidInput
from lightmem_engine.serving.body import MAX_DEPTH, parse, parse_object

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(values)
def test_json_is_read_as_it_is(value: Any) -> None:
    assert parse(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("raw", "complaint"),
    [
        (b"{", "no JSON"),
        (b"", "no JSON"),
        (b'{"a": NaN}', "NaN"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "double"),
        (b'"\\ud800"', "surrogate"),
        (b'{"\\uDFFF": 1}', "surrogate"),
        (b'"\xff"', "UTF-8"),
        (b"[" * 100_000, "nested"),
        (b"[" * (MAX_DEPTH + 5) + b"]" * (MAX_DEPTH + 5), "nested"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, "nested"),
        (b"1" * 10_000, "number"),
    ],
)
def test_what_cannot_be_stored_or_passed_on_is_refused(raw: bytes, complaint: str) -> None:
    with pytest.raises(InvalidInput, match=complaint):
        parse(raw)


def test_a_whole_surrogate_pair_is_a_character() -> None:
    assert parse(b'"\\ud83d\\ude00"') == "\U0001f600"


@pytest.mark.parametrize(
    ("raw", "kind"), [(b"[]", "application/json"), (b"{}", "text/plain"), (b"{}", ""), (b"{}", "multipart/form-data")]
)
def test_only_an_object_that_is_called_json(raw: bytes, kind: str) -> None:
    with pytest.raises(InvalidInput):
        parse_object(raw, kind)
    assert parse_object(b"{}", "Application/JSON; charset=utf-8") == {}

"""Events: cut, read and extended without touching another byte."""

from __future__ import annotations

import itertools
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.errors import ModelError
from lightmem_engine.serving.sse import MAX_EVENT_BYTES, EventSplitter, data_of, event_with_member, with_member

lines = st.sampled_from([b"data: {}", b": note", b"event: x", b"data:", b"id: 7"])
ends = st.sampled_from([b"\n", b"\r\n", b"\r", b"\n\n", b"\r\n\r\n", b"\r\r", b"\r\n\n"])
streams = st.lists(st.tuples(lines, ends)).map(lambda parts: b"".join(a + b for a, b in parts))


@given(streams, st.lists(st.integers(0, 200), max_size=10))
def test_events_join_to_the_stream_however_it_arrives(stream: bytes, cuts: list[int]) -> None:
    splitter, found = EventSplitter(), list[bytes]()
    places = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    for a, b in itertools.pairwise(places):
        found += splitter.feed(stream[a:b])
    rest = splitter.rest()
    assert b"".join(found) + rest == stream
    whole = re.split(rb"\r\n|\n|\r", stream)
    data = [line[5:].removeprefix(b" ") for line in whole if line.startswith(b"data:")]
    seen = [data_of(event) for event in [*found, rest]]
    assert b"\n".join(one for one in seen if one is not None) == b"\n".join(data)


def test_an_event_without_an_end_is_given_up() -> None:
    splitter = EventSplitter()
    for _ in range(MAX_EVENT_BYTES // 1_000_000):
        assert splitter.feed(b"x" * 1_000_000) == []
    with pytest.raises(ModelError, match="longer than"):
        splitter.feed(b"x" * 1_000_000)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'{"a": 1.50 }', b'{"a": 1.50 ,"m":{"x":1}}'),
        (b' {"a":"}"}\n', b' {"a":"}","m":{"x":1}}\n'),
        (b"{}", b'{"m":{"x":1}}'),
        (b'{"m":0,"a":1}', b'{"m":{"x":1},"a":1}'),
    ],
)
def test_a_member_is_added_at_the_end(text: bytes, expected: bytes) -> None:
    assert with_member(text, "m", {"x": 1}) == expected


@pytest.mark.parametrize(
    "event",
    [b'data: {"a":1}\n\n', b'id: 3\r\ndata:{"a":1}\r\n\r\n', b'data: {"a":\ndata: 1}\n\n', b'\ndata: {"a":1}\r\r'],
)
def test_an_event_gains_a_member(event: bytes) -> None:
    data = data_of(event)
    assert data is not None
    changed = event_with_member(event, data, "m", {"x": "ü"})
    assert json.loads(data_of(changed) or b"") == {"a": 1, "m": {"x": "ü"}}
    (only,) = EventSplitter().feed(changed.lstrip(b"\n"))
    assert data_of(only) is not None
    assert (b"id: 3" in changed) == (b"id: 3" in event)

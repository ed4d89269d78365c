"""The native routes against the real server."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest

from tests.support.server import Server


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def _post(server: Server, route: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/memory/{route}", json=body, timeout=60)


def _message(content: str, **fields: Any) -> dict[str, Any]:
    return {"role": "user", "content": content, **fields}


def test_add_acknowledges_and_search_finds_at_once(server: Server, user: str) -> None:
    answer = _post(server, "add", user_id=user, messages=[_message("The boiler code is 4711.", id="b1")])
    assert answer.json() == {"message_ids": ["b1"]}
    hits = _post(server, "search", user_id=user, query="boiler code").json()["hits"]
    assert hits[0]["source_ids"] == ["b1"]
    assert hits[0]["state"] == "pending"
    assert set(hits[0]) >= {"id", "text", "score", "kind", "source_ids", "event_time", "recorded_at", "state"}


def test_wait_makes_it_long_term(server: Server, user: str) -> None:
    _post(server, "add", user_id=user, messages=[_message("The boiler code is 4711.", id="b1")], wait=True)
    hits = _post(server, "search", user_id=user, query="boiler code").json()["hits"]
    assert hits[0]["state"] == "active"
    assert hits[0]["source_ids"] == ["b1"]


def test_the_same_id_twice_is_a_no_op_and_other_content_a_conflict(server: Server, user: str) -> None:
    for _ in range(2):
        assert _post(server, "add", user_id=user, messages=[_message("A", id="x")]).status_code == 200
    conflict = _post(server, "add", user_id=user, messages=[_message("new", id="y"), _message("B", id="x")])
    assert conflict.status_code == 409
    assert conflict.json()["error"]["code"] == "conflict"
    stats = httpx.get(f"{server.url}/v1/memory/stats", params={"user_id": user}).json()
    assert stats["messages"] == 1, "the conflicting call must store nothing"
    assert _post(server, "add", user_id=f"{user}2", messages=[_message("B", id="x")]).status_code == 200


def test_an_id_twice_in_one_call(server: Server, user: str) -> None:
    twice = _post(server, "add", user_id=user, messages=[_message("A", id="x"), _message("A", id="x")])
    assert twice.json() == {"message_ids": ["x", "x"]}
    assert (
        _post(server, "add", user_id=user, messages=[_message("B", id="z"), _message("C", id="z")]).status_code == 409
    )


def test_event_time_and_relative_dates(server: Server, user: str) -> None:
    said = _message("Yesterday I adopted a cat named Miso.", timestamp="2023-05-08T22:30:00-05:00")
    _post(server, "add", user_id=user, messages=[said], wait=True)
    hit = _post(server, "search", user_id=user, query="cat Miso").json()["hits"][0]
    assert hit["event_time"] == "2023-05-08T22:30:00-05:00"
    assert "7 May 2023" in hit["text"]


def test_filters_cut_before_top_k(server: Server, user: str) -> None:
    for n in range(30):
        _post(server, "add", user_id=user, messages=[_message(f"note {n} on tea", metadata={"n": n})])
    hits = _post(server, "search", user_id=user, query="tea", top_k=3, filters={"n": {"gte": 28}}).json()["hits"]
    assert len(hits) == 2
    bad = _post(server, "search", user_id=user, query="tea", filters={"n": {"near": 28}})
    assert bad.status_code == 400
    assert "near" in bad.json()["error"]["message"]


def test_flush_and_stats_count(server: Server, user: str) -> None:
    _post(server, "add", user_id=user, messages=[_message("one"), {"role": "system", "content": "be kind"}])
    stats = _post(server, "flush", user_id=user).json()
    assert (stats["messages"], stats["entries"], stats["pending"], stats["parked"]) == (2, 1, 0, [])
    everybody = httpx.get(f"{server.url}/v1/memory/stats").json()
    assert everybody["users"] >= 1
    assert "embed" in everybody["device"]


@pytest.mark.parametrize(
    ("route", "body"),
    [
        ("add", {"messages": [_message("x")]}),
        ("add", {"user_id": "u", "messages": []}),
        ("add", {"user_id": "u", "messages": [{"content": "x"}]}),
        ("add", {"user_id": "u", "messages": [_message("")]}),
        ("add", {"user_id": "u", "messages": [_message("   ")]}),
        ("add", {"user_id": "u", "messages": [_message("x", role="boss")]}),
        ("add", {"user_id": "u", "messages": [_message("x", timestamp="soon")]}),
        ("add", {"user_id": "u", "messages": [_message("x")], "surprise": 1}),
        ("add", {"user_id": " ", "messages": [_message("x")]}),
        ("search", {"user_id": "u"}),
        ("search", {"user_id": "u", "query": ""}),
        ("search", {"user_id": "u", "query": "x", "top_k": 0}),
        ("search", {"user_id": "u", "query": "x", "top_k": 10**9}),
        ("search", {"user_id": "u", "query": "x", "as_of": "2024-01-01T00:00:00"}),
    ],
)
def test_bad_input_gets_a_clear_400(server: Server, route: str, body: dict[str, Any]) -> None:
    answer = _post(server, route, **body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_lone_surrogates_are_refused_not_lost(server: Server, user: str) -> None:
    raw = b'{"user_id": "' + user.encode() + b'", "messages": [{"role": "user", "content": "bad \\ud800 text"}]}'
    headers = {"content-type": "application/json"}
    answer = httpx.post(f"{server.url}/v1/memory/add", content=raw, headers=headers)
    assert answer.status_code == 400, answer.text


def test_a_gigantic_body_is_refused_before_it_is_read(server: Server, user: str) -> None:
    answer = _post(server, "add", user_id=user, messages=[_message("x" * (17 * 1024 * 1024))])
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_health_version_and_unknown_routes(server: Server) -> None:
    assert httpx.get(f"{server.url}/health").status_code == 200
    assert httpx.get(f"{server.url}/version").json()["version"]
    missing = httpx.get(f"{server.url}/v1/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["code"] == "not_found"
    assert httpx.get(f"{server.url}/v1/memory/add").status_code == 405

"""Reading, changing and deleting single entries, against the real server."""

from __future__ import annotations

import uuid
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.server import Server

Json = dict[str, Any]


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def call(server: Server, method: str, route: str, *, body: Any = None, **params: Any) -> httpx.Response:
    given = {name: value for name, value in params.items() if value is not None}
    return httpx.request(method, f"{server.url}/v1/memory/{route}", params=given, json=body, timeout=60)


def add(server: Server, user: str, *contents: str, wait: bool = True, **fields: Any) -> None:
    messages = [{"role": "user", "content": content, **fields} for content in contents]
    body = {"user_id": user, "messages": messages, "session_id": "s", "wait": wait}
    assert call(server, "POST", "add", body=body).status_code == 200


def listed(server: Server, user: str, **params: Any) -> list[Json]:
    """All pages, two entries each."""
    found: list[Json] = []
    cursor = None
    while True:
        answer = call(server, "GET", "entries", user_id=user, limit=2, cursor=cursor, **params).json()
        assert len(answer["entries"]) <= 2
        found += answer["entries"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


def search(server: Server, user: str, query: str) -> list[Json]:
    hits: list[Json] = call(server, "POST", "search", body={"user_id": user, "query": query}).json()["hits"]
    return hits


def test_an_entry_reads_as_it_was_told(server: Server, user: str) -> None:
    add(server, user, "The boiler code is 4711.", id="b1", metadata={"room": "cellar"})
    (entry,) = listed(server, user)
    assert call(server, "GET", f"entries/{entry['id']}", user_id=user).json() == entry
    assert entry["text"].startswith("user: ")
    assert "4711" in entry["text"]
    assert (entry["version"], entry["state"], entry["kind"]) == (1, "active", "turn")
    assert (entry["source_ids"], entry["session_id"], entry["speaker"]) == (["b1"], "s", "user")
    assert (entry["metadata"], entry["tags"]) == ({"room": "cellar"}, [])
    assert entry["valid_to"] is None
    assert entry["superseded_at"] is None
    (version,) = call(server, "GET", f"entries/{entry['id']}/history", user_id=user).json()["versions"]
    assert version == entry


def test_a_change_makes_a_version_that_search_finds(server: Server, user: str) -> None:
    add(server, user, "The boiler code is 4711.", "The parrot is called Zazu.", metadata={"a": 1, "b": 2})
    id = next(entry["id"] for entry in listed(server, user) if "boiler" in entry["text"])
    assert search(server, user, "boiler")[0]["id"] == id
    body = {"text": "user: The heater opens with 1234.", "tags": ["home"], "metadata": {"b": None, "c": 3}}
    changed = call(server, "PATCH", f"entries/{id}", user_id=user, body=body).json()
    assert (changed["version"], changed["text"]) == (2, body["text"])
    assert (changed["tags"], changed["metadata"]) == (["home"], {"a": 1, "c": 3})
    hit = search(server, user, "heater 1234")[0]
    assert (hit["id"], hit["text"]) == (id, body["text"])
    assert all("4711" not in hit["text"] for hit in search(server, user, "boiler code 4711"))
    filtered = {"user_id": user, "query": "heater", "filters": {"tags": {"contains": "home"}}}
    assert [hit["id"] for hit in call(server, "POST", "search", body=filtered).json()["hits"]] == [id]
    first, second = call(server, "GET", f"entries/{id}/history", user_id=user).json()["versions"]
    assert (first["version"], first["state"], "4711" in first["text"]) == (1, "superseded", True)
    assert first["superseded_at"] == second["recorded_at"]
    assert second == changed
    assert call(server, "PATCH", f"entries/{id}", user_id=user, body={"tags": ["home"]}).json() == changed


def test_a_version_that_moved_on_is_a_conflict(server: Server, user: str) -> None:
    add(server, user, "The boiler code is 4711.")
    id = listed(server, user)[0]["id"]
    assert call(server, "PATCH", f"entries/{id}", user_id=user, body={"text": "a", "if_version": 1}).status_code == 200
    stale = call(server, "PATCH", f"entries/{id}", user_id=user, body={"text": "b", "if_version": 1})
    assert (stale.status_code, stale.json()["error"]["code"]) == (409, "conflict")
    assert call(server, "GET", f"entries/{id}", user_id=user).json()["text"] == "a"


def test_deleting_an_entry_leaves_the_others(server: Server, user: str) -> None:
    add(server, user, "The boiler code is 4711.", "The parrot is called Zazu.")
    boiler = next(entry["id"] for entry in listed(server, user) if "boiler" in entry["text"])
    call(server, "PATCH", f"entries/{boiler}", user_id=user, body={"text": "The heater code is 4711."})
    assert call(server, "DELETE", f"entries/{boiler}", user_id=user).json() == {"deleted": boiler}
    for method, route in (("GET", ""), ("GET", "/history"), ("DELETE", "")):
        assert call(server, method, f"entries/{boiler}{route}", user_id=user).status_code == 404
    assert ["Zazu" in entry["text"] for entry in listed(server, user)] == [True]
    assert ["Zazu" in hit["text"] for hit in search(server, user, "boiler heater code")] == [True]
    assert call(server, "GET", "stats", user_id=user).json()["messages"] == 1


def test_what_is_pending_can_be_read_and_deleted_but_not_changed(server: Server, user: str) -> None:
    add(server, user, "The boiler code is 4711.", "The parrot is called Zazu.", wait=False)
    boiler = search(server, user, "boiler code")[0]
    assert boiler["state"] == "pending"
    entry = call(server, "GET", f"entries/{boiler['id']}", user_id=user).json()
    assert (entry["state"], entry["version"], entry["text"]) == ("pending", 0, "user: The boiler code is 4711.")
    assert boiler["id"] in [entry["id"] for entry in listed(server, user, state="pending")]
    refused = call(server, "PATCH", f"entries/{boiler['id']}", user_id=user, body={"text": "x"})
    assert (refused.status_code, "still pending" in refused.json()["error"]["message"]) == (409, True)
    assert call(server, "DELETE", f"entries/{boiler['id']}", user_id=user).status_code == 200
    call(server, "POST", "flush", body={"user_id": user})
    assert ["Zazu" in entry["text"] for entry in listed(server, user)] == [True]


def test_the_id_of_what_is_no_longer_pending_says_what_became_of_it(server: Server, user: str) -> None:
    add(server, user, "The boiler code is 4711.", wait=False)
    pending = search(server, user, "boiler code")[0]["id"]
    call(server, "POST", "flush", body={"user_id": user})
    (entry,) = listed(server, user)
    for method, body in (("GET", None), ("PATCH", {"text": "x"}), ("DELETE", None)):
        answer = call(server, method, f"entries/{pending}", user_id=user, body=body)
        assert answer.status_code == 404
        assert entry["id"] in answer.json()["error"]["message"]
        stranger = call(server, method, f"entries/{pending}", user_id="eve", body=body).json()["error"]
        assert stranger["message"] == f"there is no entry {pending!r}"


def test_another_users_entry_and_none_at_all_look_alike(server: Server, user: str) -> None:
    add(server, user, "The boiler code is 4711.")
    theirs = listed(server, user)[0]["id"]
    for id in (theirs, "f" * 32, "m1.0", "no/such", "%00", "%C3%A9"):
        for method, route, body in (
            ("GET", "", None),
            ("GET", "/history", None),
            ("PATCH", "", {"text": "mine"}),
            ("DELETE", "", None),
        ):
            answer = call(server, method, f"entries/{id}{route}", user_id="eve", body=body)
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "not_found"), (id, answer.text)
            assert answer.json()["error"]["message"].startswith("there is no entry ")
    assert call(server, "GET", f"entries/{theirs}", user_id=user).json()["version"] == 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": ""},
        {"text": "  "},
        {"text": 7},
        {"tags": "home"},
        {"tags": [""]},
        {"tags": [" "]},
        {"metadata": []},
        {"metadata": None},
        {"colour": "red"},
        {"if_version": 1},
        {"text": "x", "if_version": "one"},
    ],
)
def test_a_bad_change_gets_a_clear_400(server: Server, body: Json) -> None:
    add(server, "patched", "The boiler code is 4711.", id="b")
    id = listed(server, "patched")[0]["id"]
    answer = call(server, "PATCH", f"entries/{id}", user_id="patched", body=body)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"user_id": " "},
        {"user_id": "u", "limit": 0},
        {"user_id": "u", "limit": 501},
        {"user_id": "u", "state": "lost"},
        {"user_id": "u", "kind": "rumour"},
        {"user_id": "u", "cursor": "x"},
        {"user_id": "u", "cursor": "é"},
        {"user_id": "u", "cursor": "WyJ1IiwgIiJd"},  # of the list of users
        {"user_id": "u", "cursor": "WyJlIiwxLDEsMSwiXHVkODAwIl0"},  # half a character pair
    ],
)
def test_a_bad_listing_gets_a_clear_400(server: Server, params: Json) -> None:
    answer = httpx.get(f"{server.url}/v1/memory/entries", params=params)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"]


def test_a_listing_can_be_narrowed(server: Server, user: str) -> None:
    add(server, user, "one", "two", "three")
    add(server, user, "four", wait=False)
    assert [entry["text"] for entry in listed(server, user, state="active")] == [
        f"user: {n}" for n in ["one", "two", "three"]
    ]
    assert [entry["text"] for entry in listed(server, user, state="pending")] == ["user: four"]
    assert len(listed(server, user, kind="turn")) == 4
    assert listed(server, user, kind="fact") == []
    assert len(listed(server, user, session_id="s")) == 4
    assert listed(server, user, session_id="t") == []


def test_users_are_listed_page_by_page(server: Server) -> None:
    names = [f"listed/{n} é" for n in range(5)]
    for name in names:
        add(server, name, "one", "two")
    found: list[Json] = []
    cursor = None
    while cursor is not None or not found:
        answer = call(server, "GET", "users", limit=2, cursor=cursor).json()
        found += answer["users"]
        cursor = answer["next_cursor"]
    assert [user["user_id"] for user in found] == sorted({user["user_id"] for user in found})
    mine = [user for user in found if user["user_id"] in names]
    assert [(user["user_id"], user["messages"], user["entries"]) for user in mine] == [(name, 2, 2) for name in names]
    assert call(server, "GET", "users", cursor="WyJtIiwgMV0").status_code == 400


@settings(max_examples=3, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["add", "delete", "change", "page", "start"]), st.integers(0, 10**6)),
        min_size=12,
        max_size=12,
    ),
    limit=st.integers(1, 4),
)
def test_paging_agrees_with_a_model(server: Server, steps: list[tuple[str, int]], limit: int) -> None:
    """What stays from the first page to the last is listed once, in one order, whatever comes and goes meanwhile."""
    user = uuid.uuid4().hex
    add(server, user, *(f"fact {n}" for n in range(5)))
    alive = [entry["id"] for entry in listed(server, user)]
    begun, seen, cursor = list(alive), list[str](), None
    for step, number in [*steps, *([("page", 0)] * 20)]:
        if step == "add":
            add(server, user, f"later fact {number}")
            alive = [entry["id"] for entry in listed(server, user)]
        elif step == "delete" and alive:
            gone = alive.pop(number % len(alive))
            begun = [id for id in begun if id != gone]
            assert call(server, "DELETE", f"entries/{gone}", user_id=user).status_code == 200
        elif step == "change" and alive:
            body = {"tags": [str(number)]}
            assert call(server, "PATCH", f"entries/{alive[number % len(alive)]}", user_id=user, body=body).is_success
        elif step == "start":
            begun, seen, cursor = list(alive), [], None
        elif step == "page":
            answer = call(server, "GET", "entries", user_id=user, limit=limit, cursor=cursor).json()
            seen += [entry["id"] for entry in answer["entries"]]
            cursor = answer["next_cursor"]
            if cursor is None:
                assert len(set(seen)) == len(seen)
                assert [id for id in seen if id in begun] == begun
                begun, seen = list(alive), []

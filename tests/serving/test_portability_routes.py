"""Export and import, from one real server to another."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import STUB_MODELS, Server

Json = dict[str, Any]
SLOW = (*STUB_MODELS, "short_term.idle_seconds=3600", "short_term.threshold=1000000")


def _url(server: Server, route: str) -> str:
    return f"{server.url}/v1/memory/{route}"


def _add(server: Server, user: str, *contents: str, **options: Any) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    options["metadata"] = {"größe": [1, 2.5, None], **options.get("metadata", {})}
    answer = httpx.post(_url(server, "add"), json={"user_id": user, "messages": messages, **options}, timeout=60)
    assert answer.status_code == 200, answer.text


def _fill(server: Server) -> None:
    """Two users with everything there is: versions, tags, sessions, closed segments, messages still pending."""
    for n in range(12):
        _add(server, "ann", f"Ann's parcel {n} weighs {n * 7} grams.", session_id=f"s{n % 2}")
    _add(server, "ann", "Long words. " * 200, session_id="long", timestamp="2023-05-08T22:30:00-05:00")
    httpx.post(_url(server, "flush"), json={"user_id": "ann"}, timeout=60)
    ann = {"user_id": "ann"}
    entries = httpx.get(_url(server, "entries"), params=ann).json()["entries"]
    for body in ({"text": "Ann's first parcel was lost."}, {"tags": ["post", "lost"]}, {"metadata": {"x": {"y": 1}}}):
        answer = httpx.patch(_url(server, f"entries/{entries[0]['id']}"), params=ann, json=body, timeout=60)
        assert answer.status_code == 200
    httpx.delete(_url(server, f"entries/{entries[3]['id']}"), params={"user_id": "ann"}, timeout=60)
    httpx.delete(_url(server, f"entries/{entries[-1]['id']}"), params={"user_id": "ann"}, timeout=60)
    for n in range(6):
        _add(server, "bob \U0001f600", f"Bob's parrot {n} is called Zazu{n}.", session_id="s")


def _export(server: Server, **params: Any) -> str:
    answer = httpx.get(_url(server, "export"), params=params, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.text


def _import(server: Server, text: str | bytes) -> httpx.Response:
    return httpx.post(_url(server, "import"), content=text, timeout=60)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("source") / "data", SLOW) as server:
        _fill(server)
        yield server


@pytest.fixture(scope="module")
def exported(source: Server) -> str:
    return _export(source)


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Server]:
    with Server(tmp_path / "data", SLOW) as server:
        yield server


def test_a_round_trip_ends_in_equality(exported: str, target: Server) -> None:
    assert json.loads(exported.splitlines()[0])["type"] == "header"
    done = _import(target, exported).json()
    assert (done["users"], done["messages"]) == (2, exported.count('{"type":"message"'))
    assert _hash(_export(target)) == _hash(exported)
    assert _import(target, exported).json() == {"users": 2, "messages": 0, "entries": 0}, "again is harmless"
    assert _hash(_export(target)) == _hash(exported)


def test_what_was_imported_is_found_and_goes_on(source: Server, exported: str, target: Server) -> None:
    _import(target, exported)

    def found(server: Server, user: str, query: str) -> list[Json]:
        body = {"user_id": user, "query": query, "top_k": 5}
        hits: list[Json] = httpx.post(_url(server, "search"), json=body, timeout=60).json()["hits"]
        return [{**hit, "score": round(hit["score"], 4)} for hit in hits]

    for user, query in (("ann", "lost parcel"), ("ann", "parcel 56 grams"), ("bob \U0001f600", "parrot Zazu3")):
        assert found(source, user, query) == found(target, user, query) != []
    stats = httpx.post(_url(target, "flush"), json={}, timeout=60).json()
    assert (stats["pending"], stats["parked"]) == (0, [])
    bobs = httpx.get(_url(target, "entries"), params={"user_id": "bob \U0001f600"}).json()["entries"]
    assert [entry["state"] for entry in bobs] == ["active"] * 6
    anns = httpx.get(_url(target, "entries"), params={"user_id": "ann"}).json()["entries"]
    theirs = httpx.get(_url(source, "entries"), params={"user_id": "ann"}).json()["entries"]
    assert anns == theirs, "nothing was extracted twice"


def test_one_user_can_be_exported_alone(exported: str, source: Server) -> None:
    alone = _export(source, user_id="ann")
    assert alone.splitlines() == [line for line in exported.splitlines() if '"user":"bob' not in line]
    assert len(_export(source, user_id="nobody").splitlines()) == 1


def test_an_import_beside_other_users_and_over_part_of_itself(exported: str, target: Server) -> None:
    _add(target, "carl", "Carl has a boat.", wait=True)
    lines = exported.splitlines()
    first_of_ann = next(number for number, line in enumerate(lines) if '"user":"ann"' in line)
    assert _import(target, "\n".join(lines[: first_of_ann + 5])).status_code == 200  # the first messages only
    assert _import(target, exported).status_code == 200
    everybody = {user["user_id"] for user in httpx.get(_url(target, "users")).json()["users"]}
    assert everybody == {"ann", "bob \U0001f600", "carl"}
    assert "carl" not in exported


def test_other_content_is_a_conflict_and_nothing_of_that_user_is_stored(exported: str, target: Server) -> None:
    lines = [json.loads(line) for line in exported.splitlines()]
    message = next(line for line in lines if line["type"] == "message" and line["user"].startswith("bob"))
    body = {"user_id": message["user"], "messages": [{"role": "user", "content": "other", "id": message["id"]}]}
    assert httpx.post(_url(target, "add"), json=body, timeout=60).status_code == 200
    refused = _import(target, exported)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    assert message["id"] in refused.json()["error"]["message"]
    assert httpx.get(_url(target, "stats"), params={"user_id": message["user"]}).json()["messages"] == 1
    entry = next(line for line in lines if line["type"] == "entry")
    entry["text"] += " changed"
    without_bob = [line for line in lines if not line.get("user", "").startswith("bob")]
    refused = _import(target, "\n".join(map(json.dumps, without_bob)))
    assert (refused.status_code, entry["id"] in refused.json()["error"]["message"]) == (409, True)


def _with(exported: str, kind: str, **changes: Any) -> tuple[str, int]:
    """The export with the last line of a type changed (None drops the field), and that line's number."""
    lines = exported.splitlines()
    number = max(n for n, line in enumerate(lines) if line.startswith(f'{{"type":"{kind}"')) + 1
    row = {**json.loads(lines[number - 1]), **changes}
    lines[number - 1] = json.dumps({name: value for name, value in row.items() if value != "DROP"})
    return "\n".join(lines), number


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("message", {"content": ""}),
        ("message", {"content": "DROP"}),
        ("message", {"role": "boss"}),
        ("message", {"event_time": "soon"}),
        ("message", {"event_time": "2024-01-01T00:00:00"}),
        ("message", {"event_time": "0001-01-01T00:00:00+14:00"}),
        ("message", {"colour": "red"}),
        ("message", {"type": "rumour"}),
        ("message", {"type": ["message"]}),
        ("message", {"user": ""}),
        ("message", {"user": 7}),
        ("message", {"digest": "x"}),
        ("message", {"metadata": []}),
        ("message", {"metadata": {"x": float("nan")}}),
        ("message", {"content": "\ud800"}),
        ("session", {"decided": -1}),
        ("segment", {"state": "lost"}),
        ("sensed", {"message": "none such"}),
        ("sensed", {"segment": 999}),
        ("sensed", {"pieces": []}),
        ("sensed", {"pieces": [{"start": 0, "end": 10**6, "text": "x"}]}),
        ("entry", {"version": 7}),
        ("entry", {"state": "pending"}),
        ("entry", {"sources": []}),
        ("entry", {"sources": [{"message": "none such", "start": 0, "end": 1}]}),
        ("entry", {"id": "../etc"}),
        ("entry", {"tags": [7]}),
        ("cursor", {"message": "none such"}),
        ("header", {"version": 2}),
        ("header", {"format": "something else"}),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_stored(exported: str, server: Server, kind: str, changes: Json) -> None:
    before = httpx.get(_url(server, "stats")).json()["messages"]
    text, number = _with(exported, kind, **changes)
    answer = _import(server, text)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith(f"line {number}: ")
    assert httpx.get(_url(server, "stats")).json()["messages"] == before


@pytest.mark.parametrize("text", [b"", b"\n\n", b"{", b"7", b"\xff\xfe", b'{"type": "message"}', b"[" * 100_000])
def test_what_is_no_export_at_all(server: Server, text: bytes) -> None:
    answer = _import(server, text)
    assert (answer.status_code, "line " in answer.json()["error"]["message"]) == (400, True), answer.text


def test_a_users_lines_must_stand_together(exported: str, server: Server) -> None:
    lines = exported.splitlines()
    answer = _import(server, "\n".join([*lines, lines[1]]))
    assert "do not stand together" in answer.json()["error"]["message"]


def test_an_export_is_one_moment_while_others_write(tmp_path: Path) -> None:
    """Each add is two messages that belong together: no export may hold one without the other."""
    with Server(tmp_path / "data", STUB_MODELS) as server:
        stop = threading.Event()

        def write() -> None:
            n = 0
            while not stop.is_set():
                _add(server, "ann", f"first of {n}", f"second of {n}")
                n += 1

        writers = [threading.Thread(target=write) for _ in range(3)]
        for writer in writers:
            writer.start()
        try:
            for _ in range(8):
                rows = [json.loads(line) for line in _export(server).splitlines()]
                said = [row["content"] for row in rows if row["type"] == "message"]
                assert sum(text.startswith("first") for text in said) == sum(text.startswith("second") for text in said)
                known = {row["id"] for row in rows if row["type"] == "message"}
                cited = {source["message"] for row in rows if row["type"] == "entry" for source in row["sources"]}
                assert cited <= known
        finally:
            stop.set()
            for writer in writers:
                writer.join()


def test_a_large_import_is_not_held_to_the_limit_of_other_bodies(target: Server) -> None:
    header = {"type": "header", "format": "lightmem-export", "version": 1, "embed_model": None}
    row: Json = {
        "type": "message",
        "user": "ann",
        "session": "s",
        "role": "system",
        "speaker": "system",
        "event_time": "2024-01-01T00:00:00+00:00",
        "recorded_at": "2024-01-01T00:00:00+00:00",
        "metadata": {},
        "digest": "0" * 64,
        "superseded_at": None,
    }
    lines = [json.dumps(header)]
    lines += [json.dumps({**row, "id": f"m{n}", "content": "large " * 200_000}) for n in range(16)]
    assert _import(target, "\n".join(lines)).json() == {"users": 1, "messages": 16, "entries": 0}

"""What the client sees, and what is stored, when the model server fails or the client leaves."""

from __future__ import annotations

import json
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.serving.test_gateway import ASK, CHAT, _said, _stored
from tests.support.server import STUB_ENCODERS, Server, free_port
from tests.support.upstream import (
    DONE,
    Abort,
    Gate,
    Hang,
    ScriptedUpstream,
    Step,
    chunk,
    chunked,
    completion,
    event,
    head,
    whole,
)
from tests.support.waiting import wait_until

SETTINGS = (*STUB_ENCODERS, "extract.mode=extractive")
TIMEOUT = "upstream_timeout"
LEFT_SECONDS = 30.0
WORDS = [
    event(chunk({"role": "assistant"})),
    event(chunk({"content": "Half an"})),
    event(chunk({"content": " answer"})),
]


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("patient") / "data", SETTINGS, ["--upstream", scripted.url]) as server:
        yield server


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> Iterator[Server]:
    """For model servers that never answer; of one that is only slow nothing can be told here."""
    settings = (*SETTINGS, "upstream.read_seconds=1")
    with Server(tmp_path_factory.mktemp("hasty") / "data", settings, ["--upstream", scripted.url]) as server:
        yield server


@pytest.fixture
def gateway(patient: Server, scripted: ScriptedUpstream) -> Server:
    scripted.reset()
    return patient


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def _ask(gateway: Server, user: str | None, **fields: Any) -> httpx.Response:
    headers = {"x-memory-user-id": user} if user else {}
    return httpx.post(gateway.url + CHAT, json=ASK | fields, headers=headers, timeout=30)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("plan", "status", "code"),
    [
        (whole({"error": {"message": "no such thing", "code": "theirs"}}, 404), 404, "theirs"),
        (
            whole({"error": {"message": "too long", "code": "context_length_exceeded"}}, 400),
            400,
            "context_length_exceeded",
        ),
        (whole({"error": {"message": "busy", "code": "theirs"}}, 503), 503, "theirs"),
        ([Hang()], 504, TIMEOUT),
        ([Abort()], 502, "upstream_unavailable"),
        ([b"garbage\r\n\r\n"], 502, "upstream_unavailable"),
        (
            [head(200, [("Content-Type", "application/json"), ("Content-Length", "50")]) + b"{"],
            502,
            "upstream_unavailable",
        ),
        (
            [head(200, [("Content-Type", "application/json"), ("Content-Length", "50")]), Hang()],
            504,
            TIMEOUT,
        ),
    ],
    ids=["404", "400", "503", "hangs", "resets", "garbage", "cut", "hangs in body"],
)
def test_an_upstream_that_fails_before_it_answers(
    gateway: Server,
    hasty: Server,
    scripted: ScriptedUpstream,
    user: str,
    plan: list[Step],
    status: int,
    code: str,
    stream: bool,
) -> None:
    server = hasty if code == TIMEOUT else gateway
    scripted.plan = plan
    answer = _ask(server, user, stream=stream)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["code"] == code
    assert "Good morning" in _said(server, user, "user")
    assert _said(server, user, "assistant") == ""


@pytest.mark.parametrize(
    ("end", "code"),
    [([Abort()], "upstream_unavailable"), ([b"0\r\n\r\n"], "upstream_unavailable"), ([Hang()], TIMEOUT)],
    ids=["dies", "ends early", "hangs"],
)
def test_an_upstream_that_fails_mid_stream(
    gateway: Server, hasty: Server, scripted: ScriptedUpstream, user: str, end: list[Step], code: str
) -> None:
    server = hasty if code == TIMEOUT else gateway
    gate = threading.Event()
    scripted.plan = [*chunked(WORDS, end=False), Gate(gate), *end]
    body = ASK | {"stream": True, "user": user}
    with httpx.Client(timeout=30) as client, client.stream("POST", server.url + CHAT, json=body) as answer:
        got = b""
        for piece in answer.iter_raw():
            got += piece
            if b" answer" in got:
                gate.set()
    assert got.startswith(b"".join(WORDS))
    error, done = got.removeprefix(b"".join(WORDS)).split(b"\n\n")[:2]
    assert json.loads(error.removeprefix(b"data: "))["error"]["code"] == code
    assert done + b"\n\n" == DONE
    hits = [hit for hit in _stored(server, user) if hit["speaker"] == "assistant"]
    assert [hit["text"] for hit in hits] == ["assistant: Half an answer"]
    partial = {"user_id": user, "query": "answer", "filters": {"partial": True}}
    assert httpx.post(f"{server.url}/v1/memory/search", json=partial, timeout=30).json()["hits"]


def test_an_error_event_goes_through_and_what_was_seen_is_partial(
    gateway: Server, scripted: ScriptedUpstream, user: str
) -> None:
    said = b"".join([*WORDS, event({"error": {"message": "out of memory", "code": 500}}), DONE])
    scripted.plan = chunked([said])
    assert _ask(gateway, user, stream=True).content == said
    assert _said(gateway, user, "assistant") == "assistant: Half an answer"


def test_without_identity_a_broken_stream_breaks_off(gateway: Server, scripted: ScriptedUpstream) -> None:
    scripted.plan = [*chunked(WORDS, end=False), Abort()]
    with pytest.raises(httpx.RemoteProtocolError):
        _ask(gateway, None, stream=True)


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions"])
def test_a_client_that_leaves_is_noticed_upstream_at_once(
    gateway: Server, scripted: ScriptedUpstream, user: str, named: bool, path: str
) -> None:
    scripted.plan = [*chunked(WORDS, end=False), Hang()]
    body = ASK | {"stream": True} | ({"user": user} if named else {})
    with httpx.Client(timeout=30) as client, client.stream("POST", gateway.url + path, json=body) as answer:
        next(answer.iter_raw())
    assert scripted.left.wait(LEFT_SECONDS), "long before the read time-out"
    if named and path == CHAT:
        wait_until(lambda: "Half" in _said(gateway, user, "assistant"))


def test_a_client_that_leaves_before_the_first_byte(gateway: Server, scripted: ScriptedUpstream, user: str) -> None:
    scripted.plan = [Hang()]
    raw = json.dumps(ASK | {"user": user}).encode()
    request = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", gateway.port)) as client:
        client.sendall(request.encode() + raw)
        wait_until(lambda: scripted.seen)
    assert scripted.left.wait(LEFT_SECONDS)


def test_nobody_listens_upstream(tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{free_port()}/v1"
    with Server(tmp_path / "data", SETTINGS, ["--upstream", url]) as gateway:
        for user in ("ann", None):
            answer = _ask(gateway, user)
            assert answer.status_code == 502
            assert answer.json()["error"]["code"] == "upstream_unavailable"
        assert "Good morning" in _said(gateway, "ann", "user")
        assert httpx.get(f"{gateway.url}/v1/models").status_code == 502
        assert httpx.get(f"{gateway.url}/health").status_code == 200
        assert httpx.get(f"{gateway.url}/health/ready", timeout=30).status_code == 503
        metrics = httpx.get(f"{gateway.url}/metrics", timeout=30).text
        assert 'lightmem:upstream_errors_total{kind="connect"} 3.0' in metrics


def test_the_upstreams_own_key_takes_the_place_of_the_clients(tmp_path: Path, scripted: ScriptedUpstream) -> None:
    scripted.reset()
    settings = (*SETTINGS, f"upstream.url={scripted.url}", "upstream.api_key=sk-house")
    with Server(tmp_path / "data", settings) as gateway:
        scripted.plan = whole(completion("Hi."))
        httpx.post(gateway.url + CHAT, json=ASK, headers={"authorization": "Bearer guest"}, timeout=30)
        httpx.get(f"{gateway.url}/v1/models", headers={"authorization": "Bearer guest"}, timeout=30)
    assert [seen.header("authorization") for seen in scripted.seen] == ["Bearer sk-house"] * 2


def test_a_reader_who_stalls_stops_the_source(tmp_path: Path, scripted: ScriptedUpstream) -> None:
    """Upstream cannot send on while nobody reads, and the client is cut off in the end."""
    scripted.reset()
    flood = event(chunk({"content": "x" * 65_000}))
    scripted.plan = chunked([flood] * 2000, end=False)
    with (
        Server(
            tmp_path / "data",
            (*SETTINGS, "server.send_seconds=1"),
            ["--upstream", scripted.url],
        ) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port)) as client,
    ):
        raw = json.dumps(ASK | {"stream": True, "user": "ann"}).encode()
        lines = (
            f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(raw)}\r\n\r\n"
        )
        client.sendall(lines.encode() + raw)
        assert scripted.left.wait(LEFT_SECONDS), "the stalled client is given up and upstream let go"
        usage = Path(f"/proc/{gateway.process.pid}/status").read_text()
        peak = next(int(line.split()[1]) for line in usage.splitlines() if line.startswith("VmHWM"))
        assert peak < 1_500_000, "kB: the flood of 130 MB was not piled up"
        assert httpx.get(f"{gateway.url}/health").status_code == 200

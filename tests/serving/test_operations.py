"""Running it: overload, metrics, logs, a disk that is full, garbage on the wire."""

from __future__ import annotations

import json
import random
import resource
import socket
import threading
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.server import STUB_ENCODERS, STUB_MODELS, Server
from tests.support.upstream import Gate, ScriptedUpstream, completion, whole
from tests.support.waiting import wait_until

CHAT = "/v1/chat/completions"
ASK: dict[str, Any] = {"model": "stub", "messages": [{"role": "user", "content": "Good morning!"}]}
CANARY = "xylophone-canary-8841"


def _metrics(server: Server) -> dict[str, float]:
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    return {
        name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if not name.startswith("#")
    }


def test_more_than_it_can_do_is_503_with_a_time_to_come_back(tmp_path: Path) -> None:
    gate = threading.Event()
    settings = (*STUB_ENCODERS, "extract.mode=extractive", "server.max_chats=2")
    with ScriptedUpstream() as scripted:
        scripted.plan = [Gate(gate), *whole(completion("Hi."))]
        with Server(tmp_path / "data", settings, ["--upstream", scripted.url]) as server:
            statuses: list[int] = []
            threads = [
                threading.Thread(
                    target=lambda: statuses.append(httpx.post(server.url + CHAT, json=ASK, timeout=30).status_code)
                )
                for _ in range(2)
            ]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(scripted.seen) == 2)
            refused = httpx.post(server.url + CHAT, json=ASK, timeout=30)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.json()["error"]["code"] == "overloaded"
            assert httpx.get(f"{server.url}/v1/memory/stats", timeout=30).status_code == 200
            assert _metrics(server)['lightmem:num_requests_running{kind="chat"}'] == 2
            gate.set()
            for thread in threads:
                thread.join()
            assert statuses == [200, 200]
            assert httpx.post(server.url + CHAT, json=ASK, timeout=30).status_code == 200


def test_metrics_have_names_and_no_users(server: Server) -> None:
    user = uuid.uuid4().hex
    httpx.post(server.url + CHAT, json=ASK | {"user": user}, timeout=30)
    httpx.post(server.url + CHAT, json=ASK | {"user": user, "stream": True}, timeout=30)
    httpx.post(server.url + CHAT, json={}, timeout=30)
    httpx.get(f"{server.url}/v1/nowhere/{user}", timeout=30)
    httpx.post(f"{server.url}/v1/memory/flush", json={"user_id": user}, timeout=60)
    text = httpx.get(f"{server.url}/metrics", timeout=30).text
    assert user not in text
    got = _metrics(server)
    for name in (
        'lightmem:http_requests_total{method="POST",route="/v1/chat/completions",status="200"}',
        'lightmem:http_requests_total{method="POST",route="/v1/chat/completions",status="400"}',
        'lightmem:http_requests_total{method="GET",route="unknown",status="404"}',
        "lightmem:time_to_first_token_seconds_count",
        "lightmem:e2e_request_latency_seconds_count",
        "lightmem:recall_latency_seconds_count",
        'lightmem:turns_total{stored="true"}',
        "lightmem:messages",
        "lightmem:entries",
        "lightmem:engine_up",
        'lightmem:device_batches_total{lane="embed"}',
        'lightmem:device_tokens_total{lane="embed"}',
        'lightmem:device_seconds_total{lane="embed"}',
    ):
        assert got[name] > 0, name
    for name in ("lightmem:messages_pending", "lightmem:parked", "lightmem:device_queued_tokens"):
        assert name in got


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_no_word_of_anybody_is_in_the_log(tmp_path: Path, log_format: str) -> None:
    settings = (*STUB_MODELS, f"server.log_format={log_format}")
    user = "user-canary-17"
    with Server(tmp_path / "data", settings) as server:
        said = {"messages": [{"role": "user", "content": CANARY}], "user": user}
        httpx.post(server.url + CHAT, json=said, headers={"x-request-id": "id-1"}, timeout=30)
        httpx.post(server.url + CHAT, json=said | {"stream": True}, timeout=30)
        httpx.post(server.url + CHAT, json=said | {"temperature": CANARY}, timeout=30)
        httpx.post(server.url + CHAT, content=f'{{"{CANARY}', timeout=30)
        httpx.post(f"{server.url}/v1/memory/add", json={"user_id": user, **said, "odd": CANARY}, timeout=30)
        httpx.post(f"{server.url}/v1/memory/search", json={"user_id": user, "query": CANARY}, timeout=30)
        httpx.delete(f"{server.url}/v1/memory/users/{user}", timeout=30)
        httpx.get(f"{server.url}/v1/nothing?q={CANARY}", headers={"authorization": f"Bearer {CANARY}"}, timeout=30)
    log = server.log.read_text()
    assert CANARY not in log
    assert user not in log
    if log_format == "json":
        rows = [json.loads(line) for line in log.splitlines()]
        (row,) = [row for row in rows if row.get("request_id") == "id-1"]
        assert (row["method"], row["path"], row["status"], row["tenant"]) == ("POST", CHAT, 200, "default")
        assert row["ms"] > 0
    else:
        assert f"POST {CHAT} 200" in log
        assert "request id-1" in log


def test_a_full_disk_degrades_memory_and_never_a_chat(tmp_path: Path) -> None:
    with Server(tmp_path / "data", STUB_MODELS) as server:
        first = httpx.post(server.url + CHAT, json=ASK | {"user": "ann"}, timeout=30).json()
        assert first["memory"]["stored"] is True
        unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (4096, unlimited[1]))
        for stream in (False, True):
            answer = httpx.post(server.url + CHAT, json=ASK | {"user": "ann", "stream": stream}, timeout=30)
            assert answer.status_code == 200
            assert "stub" in answer.text
            assert '"stored":false' in answer.text
            assert '"degraded":"store_error"' in answer.text
        added = {"user_id": "ann", "messages": [{"role": "user", "content": "x"}]}
        assert httpx.post(f"{server.url}/v1/memory/add", json=added, timeout=30).status_code >= 500
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        again = httpx.post(server.url + CHAT, json=ASK | {"user": "ann"}, timeout=30).json()
        assert again["memory"]["stored"] is True
        assert _metrics(server)['lightmem:degraded_turns_total{reason="store_error"}'] == 2


@pytest.mark.parametrize("declared", [True, False])
def test_a_huge_body_is_413_with_or_without_its_length(server: Server, declared: bool) -> None:
    size = 17 * 1024 * 1024
    content: Any = b" " * size if declared else (b" " * 65536 for _ in range(size // 65536))
    headers = (
        {"content-type": "application/json", "content-length": str(size)}
        if declared
        else {"content-type": "application/json"}
    )
    answer = httpx.post(server.url + CHAT, content=content, headers=headers, timeout=30)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "too_large"


SEED = json.dumps(
    {
        "model": "stub",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "h\u00e9llo \\u0041"}]}],
        "memory": {"user_id": "fuzz", "top_k": 3, "filters": {"kind": "fact"}},
        "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
        "response_format": {"type": "text"},
        "temperature": 0.5,
        "stream": False,
    }
).encode()
BITS = [
    b"{",
    b"}",
    b"[",
    b'"',
    b"null",
    b"NaN",
    b"1e999",
    b"\\ud800",
    b"\xff",
    b"-1",
    b"[]",
    b"\x00",
    b"9" * 30,
    b":",
    b",",
]


def _mutant(random: random.Random) -> bytes:
    body = bytearray(SEED)
    for _ in range(random.randint(1, 4)):
        at = random.randrange(len(body))
        match random.randrange(4):
            case 0:
                body[at] = random.randrange(256)
            case 1:
                del body[at : at + random.randint(1, 12)]
            case 2:
                body[at:at] = random.choice(BITS)
            case 3:
                end = min(len(body), at + random.randint(1, 8))
                body[at:end] = random.choice(BITS)
    return bytes(body)


def test_random_bytes_in_a_chat_never_break_the_server(server: Server) -> None:
    chance = random.Random(20)
    before = len(server.log.read_text())
    with httpx.Client(timeout=30, headers={"content-type": "application/json"}) as client:
        statuses = {client.post(server.url + CHAT, content=_mutant(chance)).status_code for _ in range(400)}
    assert statuses <= {200, 400, 404}
    assert 400 in statuses
    assert "Traceback" not in server.log.read_text()[before:]


def test_garbage_on_the_wire_never_breaks_the_server(server: Server) -> None:
    chance = random.Random(21)
    before = len(server.log.read_text())
    line = f"POST {CHAT} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(SEED)}\r\n\r\n"
    for _ in range(60):
        raw = bytearray(line.encode() + SEED)
        for _ in range(chance.randint(1, 6)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        with socket.create_connection(("127.0.0.1", server.port), 30) as client:
            client.sendall(raw[: chance.randint(1, len(raw))])
            client.shutdown(socket.SHUT_WR)
            got = b""
            while piece := client.recv(65536):
                got += piece
        assert not got.startswith(b"HTTP/1.1 5"), got
    for lines in (b"\x00" * 5000, b"GET / HTTP/9.9\r\n\r\n", b"X-Big: " + b"y" * 200_000):
        with socket.create_connection(("127.0.0.1", server.port), 30) as client:
            client.sendall(lines)
    assert httpx.get(f"{server.url}/health", timeout=30).status_code == 200
    assert "Traceback" not in server.log.read_text()[before:]

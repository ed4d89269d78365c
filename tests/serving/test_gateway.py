"""The gateway in front of a scripted model server: exact without an identity, remembering with one."""

from __future__ import annotations

import gzip
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.server import STUB_ENCODERS, Server
from tests.support.upstream import DONE, ScriptedUpstream, chunk, chunked, completion, event, head, whole

HOP = {"connection", "transfer-encoding", "keep-alive", "host"}
ASK: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Good morning!"}]}
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> Iterator[Server]:
    settings = (*STUB_ENCODERS, "extract.mode=extractive")
    with Server(tmp_path_factory.mktemp("gateway") / "data", settings, ["--upstream", f"{scripted.url}/v1"]) as server:
        yield server


@pytest.fixture
def gateway(running: Server, scripted: ScriptedUpstream) -> Server:
    scripted.reset()
    return running


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def _raw(url: str, body: bytes | None, method: str = "POST", **headers: str) -> tuple[int, list[Any], bytes]:
    """Status, headers but for those of one hop, and the body as it is on the wire."""
    kind = {n.encode(): v.encode() for n, v in ({"content-type": "application/json"} | headers).items()}
    with httpx.Client(timeout=30) as client, client.stream(method, url, content=body, headers=kind) as answer:
        raw = b"".join(answer.iter_raw())
        kept = [(n.lower(), v) for n, v in answer.headers.raw if n.lower().decode() not in HOP]
        return answer.status_code, kept, raw


def _stored(server: Server, user: str) -> list[dict[str, Any]]:
    body = {"user_id": user, "query": "what was said", "top_k": 50}
    hits: list[dict[str, Any]] = httpx.post(f"{server.url}/v1/memory/search", json=body, timeout=30).json()["hits"]
    return hits


def _said(server: Server, user: str, speaker: str) -> str:
    return " ".join(hit["text"] for hit in _stored(server, user) if hit["speaker"] == speaker)


EVENTS = (
    b": keep-alive\r\n\r\n"
    + event(chunk({"role": "assistant"}), b"\r\n")
    + event(chunk({"content": "Hi"}), b"\r")
    + DONE
)


@pytest.mark.parametrize(
    "plan",
    [
        whole(completion("Hello."), headers=[("X-Odd", "1"), ("x-odd", "2"), ("Set-Cookie", "a=b")]),
        whole(b'{"error": {"message": "slow down",  "type": "x"}}', 429, [("Retry-After", "7")]),
        whole(b"<html>oops</html>", 500, [("Content-Type", "text/html")]),
        whole(gzip.compress(b'{"zipped": true}', mtime=0), 200, [("Content-Encoding", "gzip")]),
        whole(b"", 204),
        chunked([EVENTS[i : i + 7] for i in range(0, len(EVENTS), 7)]),
    ],
    ids=["json", "429", "500", "gzip", "empty", "events"],
)
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/embeddings?a=%7Eb&c", "/v1//odd/%2F/..;x"])
def test_without_identity_bytes_go_both_ways_unchanged(
    gateway: Server, scripted: ScriptedUpstream, plan: Any, path: str
) -> None:
    scripted.plan = plan
    body = b'{"messages" : [{"role":"user","content":"x"}], "n": 1.0, "big": 123456789012345678901234567890, "n": 2}'
    headers = {"x-request-id": "mine", "authorization": "Bearer theirs", "x-thing": "ü"}
    through = _raw(gateway.url + path, body, **headers)
    direct = _raw(scripted.url + path, body, **headers)
    assert through == direct
    first, second = scripted.seen
    assert (first.method, first.target, first.body) == (second.method, second.target, second.body)
    assert sorted((n.lower(), v) for n, v in first.headers if n.lower() not in HOP) == sorted(
        (n.lower(), v) for n, v in second.headers if n.lower() not in HOP
    )


def test_any_method_and_a_body_without_a_length(gateway: Server, scripted: ScriptedUpstream) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(50):
            yield b"x" * 10_000

    with httpx.Client(timeout=30) as client:
        assert client.request("PUT", f"{gateway.url}/v1/files", content=pieces()).json() == {"ok": True}
        assert len(scripted.seen[0].body) == 500_000
        for method in ("GET", "DELETE", "OPTIONS", "PATCH"):
            client.request(method, f"{gateway.url}/v1/models")
        scripted.plan = [head(200, [("Content-Length", "99")])]
        assert client.head(f"{gateway.url}/v1/models").headers["content-length"] == "99"
    assert [seen.method for seen in scripted.seen[1:]] == ["GET", "DELETE", "OPTIONS", "PATCH", "HEAD"]


def test_a_body_that_is_no_json_is_the_model_servers_to_judge(gateway: Server, scripted: ScriptedUpstream) -> None:
    scripted.plan = whole(b"no", 400)
    assert _raw(gateway.url + CHAT, b"{")[::2] == (400, b"no")
    named = httpx.post(gateway.url + CHAT, content=b"{", headers={"x-memory-user-id": "ann"})
    assert named.json()["error"]["code"] == "invalid_input"
    assert len(scripted.seen) == 1
    odd = b'{"messages": [{"role": "user", "content": "\\ud800"}], "user": %s}'
    for user in (b'"ann"', b"5", b'"a\\nb"'):
        assert _raw(gateway.url + CHAT, odd % user)[0] == 400
        assert b"invalid_input" in _raw(gateway.url + CHAT, odd % user)[2]
    assert len(scripted.seen) == 1
    scripted.plan = whole({"theirs": True})
    assert _raw(gateway.url + CHAT, odd % b'""')[2] == b'{"theirs": true}'


def test_memory_rides_on_the_answer_and_nothing_else_changes(
    gateway: Server, scripted: ScriptedUpstream, user: str
) -> None:
    answer = completion("The cat is called Miso.", reasoning_content="secret thought", refusal=None)
    raw = json.dumps(answer, indent=1).encode()
    scripted.plan = whole(raw)
    body = ASK | {"memory": {"user_id": user}, "odd": {"deep": [1, None]}, "top_k": 7, "temperature": 0.25}
    got = httpx.post(gateway.url + CHAT, json=body, headers={"x-request-id": "r-1"}, timeout=30)
    before, _, memory = got.content.rpartition(b',"memory":')
    assert before == raw.rstrip(b"}").rstrip() + b"\n" or raw.startswith(before)
    assert set(json.loads(memory[:-1])) == {"used", "tokens_added", "read_ms", "stored", "degraded"}
    assert json.loads(got.content)["memory"]["stored"] is True
    assert got.headers["x-request-id"] == "r-1"
    (seen,) = scripted.seen
    assert seen.json() == {key: value for key, value in body.items() if key != "memory"}
    assert seen.header("x-request-id") == "r-1"
    assert "Miso" in _said(gateway, user, "assistant")
    assert "secret" not in json.dumps(_stored(gateway, user))


def test_what_is_remembered_reaches_the_model(gateway: Server, scripted: ScriptedUpstream, user: str) -> None:
    scripted.plan = whole(completion("Noted."))
    for content in ("My parrot is called Zazu.", "What is my parrot called?"):
        body = {"model": "m", "messages": [{"role": "user", "content": content}]}
        used = httpx.post(gateway.url + CHAT, json=body, headers={"x-memory-user-id": user}, timeout=30).json()[
            "memory"
        ]
    assert used["used"]
    assert "Zazu" in json.dumps(scripted.seen[1].json()["messages"])
    assert scripted.seen[1].header("x-memory-user-id") is None


STREAM = [
    b": ping\r\n\r\n",
    event(chunk({"role": "assistant", "content": "", "odd": 1}), b"\r\n"),
    event(chunk({"reasoning_content": "secret thought"})),
    event(chunk({"content": "The cat "}, logprobs={"content": []})),
    event(chunk({"content": "other"}, index=1)),
    b"event: note\nid: 4\n" + event(chunk({"content": "is Miso."}), b"\r"),
    event(chunk({}, "stop", index=1)),
]
FINISH = b'data: {"choices": [{"index": 0, "delta": {},   "finish_reason": "stop"}], "x": 1e2 }\r\n\r\n'
TAIL = event({"choices": [], "usage": {"prompt_tokens": 3, "made_up": 1}}) + DONE


@pytest.mark.parametrize("size", [1, 3, 50, 100_000])
def test_events_go_on_byte_for_byte_but_for_the_one_that_finishes(
    gateway: Server, scripted: ScriptedUpstream, user: str, size: int
) -> None:
    sent = b"".join(STREAM) + FINISH + TAIL
    scripted.plan = chunked([sent[i : i + size] for i in range(0, len(sent), size)])
    status, _, got = _raw(gateway.url + CHAT, json.dumps(ASK | {"stream": True, "user": user}).encode())
    assert status == 200
    before, after = b"".join(STREAM), TAIL
    assert got.startswith(before)
    assert got.endswith(after)
    finishing = got[len(before) : -len(after)]
    plain, _, memory = finishing.partition(b',"memory":')
    assert plain == FINISH.removesuffix(b"}\r\n\r\n")
    assert json.loads(memory.removesuffix(b"}\r\n\r\n"))["stored"] is True
    assert "Miso" in _said(gateway, user, "assistant")
    assert "other" not in _said(gateway, user, "assistant")
    assert "secret" not in json.dumps(_stored(gateway, user))


def test_the_stock_client_streams_tool_calls(gateway: Server, scripted: ScriptedUpstream, user: str) -> None:
    def call(**function: str) -> dict[str, Any]:
        return {"index": 0, "function": function}

    events = [
        chunk(
            {"role": "assistant", "tool_calls": [{**call(name="look", arguments=""), "id": "t1", "type": "function"}]}
        ),
        chunk({"tool_calls": [call(arguments='{"a"')]}),
        chunk({"tool_calls": [call(arguments=":1}")]}),
        chunk({}, "tool_calls"),
    ]
    scripted.plan = chunked([*map(event, events), DONE])
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="x", max_retries=0) as client:
        got = list(client.chat.completions.create(**ASK, user=user, stream=True))
    pieces = [c.choices[0].delta.tool_calls[0].function.arguments for c in got[:3]]
    assert "".join(pieces) == '{"a":1}'
    assert got[-1].choices[0].finish_reason == "tool_calls"
    assert "memory" in got[-1].model_extra


def test_models_come_from_the_model_server(gateway: Server, scripted: ScriptedUpstream) -> None:
    scripted.plan = whole({"object": "list", "data": [{"id": "big", "object": "model", "created": 0, "owned_by": "x"}]})
    with OpenAI(base_url=f"{gateway.url}/v1", api_key="sk-1", max_retries=0) as client:
        assert [model.id for model in client.models.list()] == ["big"]
    assert scripted.seen[0].header("authorization") == "Bearer sk-1"


def test_our_own_paths_stay_here(gateway: Server, scripted: ScriptedUpstream) -> None:
    for path in ("/health", "/version", "/metrics", "/v1/memory/stats"):
        assert httpx.get(gateway.url + path, timeout=30).status_code == 200, path
    assert httpx.get(f"{gateway.url}/v1/memory/nothing").status_code == 404
    assert scripted.seen == []
    ready = httpx.get(f"{gateway.url}/health/ready", timeout=30)
    assert ready.json() == {"ready": True, "checks": {"engine": True, "model": True}}
    scripted.plan = whole({}, 503)
    assert httpx.get(f"{gateway.url}/health/ready", timeout=30).status_code == 503


def test_what_is_said_is_extracted_by_the_model_server(tmp_path: Path) -> None:
    with ScriptedUpstream() as scripted:
        fact = {"source": 1, "fact": "Ann has a parrot called Zazu."}
        scripted.plan = whole(completion(json.dumps({"facts": [fact], "relations": [], "entities": []})))
        scripted.plans = {"/v1/models": whole({"data": [{"id": "big"}]})}
        settings = (*STUB_ENCODERS, "short_term.threshold=0", "upstream.api_key=sk-house")
        with Server(tmp_path / "data", settings, ["--upstream", scripted.url]) as gateway:
            told = {"user_id": "ann", "messages": [{"role": "user", "content": "I have a parrot called Zazu."}]}
            httpx.post(f"{gateway.url}/v1/memory/add", json=told | {"wait": True}, timeout=60)
            hits = _stored(gateway, "ann")
        assert [hit["text"] for hit in hits if hit["kind"] == "fact"] == [fact["fact"]]
        asked = [seen for seen in scripted.seen if seen.target == CHAT]
        assert {seen.json()["model"] for seen in asked} == {"big"}
        assert {seen.header("authorization") for seen in scripted.seen} == {"Bearer sk-house"}


def test_a_remote_language_model_answers_as_a_gateway_and_a_header_may_be_all_that_is_trusted(tmp_path: Path) -> None:
    with ScriptedUpstream() as scripted:
        answer = completion(None, "tool_calls", tool_calls=[{"id": "t", "type": "function", "function": {"name": "f"}}])
        scripted.plan = whole(answer)
        settings = (*STUB_ENCODERS, "extract.mode=extractive", f"lm.url={scripted.url}/v1", "lm.model=m")
        with Server(tmp_path / "data", (*settings, "lm.api_key=sk-lm", "identity.trust=header")) as gateway:
            body = ASK | {"user": "ann", "memory": {"user_id": "ann"}}
            assert httpx.post(gateway.url + CHAT, json=body, timeout=30).json() == answer
            named = httpx.post(gateway.url + CHAT, json=body, headers={"x-memory-user-id": "bob"}, timeout=30).json()
            assert named.pop("memory")["degraded"] is None
            assert named == answer
            assert _stored(gateway, "ann") == []
            assert "Good morning" in _said(gateway, "bob", "user")
        assert {seen.header("authorization") for seen in scripted.seen} == {"Bearer sk-lm"}

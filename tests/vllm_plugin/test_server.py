"""vLLM with memory, driven by the stock OpenAI client: two API server processes, one owner."""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from lightmem_engine.client import EngineClient
from lightmem_engine.types import Message, Sampling, Scope
from tests.support.vllm_server import MODEL, VllmServer
from tests.support.vllm_talk import THINKING_OFF, ask, client, native

MEMBERS = {"used", "tokens_added", "read_ms", "stored", "degraded"}
ROUTES = [
    ("POST", "/v1/chat/completions"),
    ("GET", "/v1/models"),
    ("POST", "/v1/memory/add"),
    ("POST", "/v1/memory/search"),
    ("POST", "/v1/memory/flush"),
    ("GET", "/v1/memory/entries"),
    ("GET", "/v1/memory/entries/x"),
    ("PATCH", "/v1/memory/entries/x"),
    ("DELETE", "/v1/memory/entries/x"),
    ("GET", "/v1/memory/entries/x/history"),
    ("GET", "/v1/memory/users"),
    ("DELETE", "/v1/memory/users/ann"),
    ("GET", "/v1/memory/export"),
    ("POST", "/v1/memory/import"),
    ("POST", "/v1/memory/sleep"),
    ("GET", "/v1/memory/sleep"),
    ("GET", "/v1/memory/sleep/x"),
    ("POST", "/v1/memory/sleep/x/rollback"),
    ("GET", "/v1/memory/stats"),
    ("GET", "/v1/memory/nowhere"),
    ("POST", "/v1/memory/turns/open"),
    ("POST", "/v1/memory/turns/close"),
    ("POST", "/v1/memory/foreground"),
    ("POST", "/v1/memory/owner"),
]


def test_what_is_told_in_one_session_is_known_in_another(vllm: VllmServer) -> None:
    told = ask(vllm, "My sister moved to Lisbon.", "ann", session="monday")
    assert told.memory is not None
    assert told.memory.keys() == MEMBERS
    assert told.memory["stored"] is True
    asked = ask(vllm, "Where does my sister live?", "ann", session="tuesday")
    assert "Lisbon" in asked.text
    assert asked.memory is not None
    assert asked.memory["used"]
    assert asked.memory["degraded"] is None
    assert "Lisbon" not in ask(vllm, "Where does my sister live?", "bob").text


def test_a_chat_that_names_nobody_is_vllms_own(vllm: VllmServer) -> None:
    assert ask(vllm, "Where does my sister live?").memory is None
    refused = native(vllm, "POST", "/v1/chat/completions", json={"model": MODEL, "messages": "none"})
    assert refused.status_code == 400
    assert "request_id" not in refused.json()["error"]  # vLLM's words, not ours


def test_a_stream_brings_memory_on_its_last_chunk_alone(vllm: VllmServer) -> None:
    ask(vllm, "My dog is called Argo.", "carla")
    with client(vllm) as talker:
        stream = talker.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "What is my dog called?"}],
            stream=True,
            stream_options={"include_usage": True},
            temperature=0,
            max_tokens=32,
            extra_headers={"X-Memory-User-Id": "carla"},
            extra_body=THINKING_OFF,
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Argo" in text
    finished = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    with_memory = [chunk for chunk in chunks if "memory" in (chunk.model_extra or {})]
    assert with_memory == finished
    assert (with_memory[0].model_extra or {})["memory"]["stored"] is True
    assert chunks[-1].usage is not None


def test_a_tool_is_called_and_its_result_taken_up(vllm: VllmServer) -> None:
    city = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": city}}
    messages: list[Any] = [{"role": "user", "content": "What is the weather in Rome?"}]
    common: dict[str, Any] = {
        "model": MODEL,
        "tools": [tool],
        "temperature": 0,
        "max_tokens": 100,
        "extra_headers": {"X-Memory-User-Id": "dora", "X-Memory-Session-Id": "tools"},
        "extra_body": THINKING_OFF,
    }
    with client(vllm) as talker:
        choice: Any = {"type": "function", "function": {"name": "weather"}}
        reply = talker.chat.completions.create(messages=messages, tool_choice=choice, **common)
        calls = reply.choices[0].message.tool_calls
        assert calls is not None
        assert calls[0].type == "function"
        assert calls[0].function.name == "weather"
        assert (reply.model_extra or {})["memory"]["stored"] is True
        messages.append(reply.choices[0].message.model_dump(exclude_none=True))
        messages.append({"role": "tool", "tool_call_id": calls[0].id, "content": "sunny"})
        after = talker.chat.completions.create(messages=messages, tool_choice="none", **common)
    assert (after.model_extra or {})["memory"]["degraded"] is None
    assert (after.model_extra or {})["memory"]["stored"] is True


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_of_ours_answers_a_stranger(vllm: VllmServer, method: str, path: str) -> None:
    assert native(vllm, method, path, key=None).status_code == 401
    assert native(vllm, method, path, key="made-up").status_code == 401


def test_turns_are_not_for_callers(vllm: VllmServer) -> None:
    for path in ("/v1/memory/turns/open", "/v1/memory/%74urns/open", "/v1/memory/foreground", "/v1/memory/owner"):
        assert native(vllm, "POST", path, json={"messages": [], "action": "enter"}).status_code == 404


def test_tenants_are_apart_and_only_admins_see_the_whole(vllm: VllmServer) -> None:
    message = {"role": "user", "content": "The safe opens with 4711."}
    added = native(vllm, "POST", "/v1/memory/add", json={"user_id": "eve", "messages": [message]})
    assert added.status_code == 200
    forged = {"x-memory-tenant": "red", "x-memory-admin": "1"}
    for headers in ({}, forged):
        question = {"user_id": "eve", "query": "safe"}
        blue = native(vllm, "POST", "/v1/memory/search", "blue-key", json=question, headers=headers)
        assert blue.json() == {"hits": []}
        assert native(vllm, "GET", "/v1/memory/stats", "blue-key", headers=headers).status_code == 403
        assert native(vllm, "GET", "/v1/memory/users", "blue-key", headers=headers).status_code == 403
    assert native(vllm, "GET", "/v1/memory/stats").status_code == 200
    found = native(vllm, "POST", "/v1/memory/search", json={"user_id": "eve", "query": "safe"}).json()["hits"]
    assert "4711" in found[0]["text"]


def test_a_clients_salt_opens_no_other_cache(vllm: VllmServer) -> None:
    words = "One question, longer than a block of the cache, so that it could be found there: " + "and so on " * 20
    apart = {"memory": {"read": False, "write": False}, "cache_salt": "guessed", "priority": -5}
    assert ask(vllm, words, "fay", body=apart).cached == 0
    assert ask(vllm, words, "fay", body=apart).cached > 0
    assert ask(vllm, words, "gus", body=apart).cached == 0
    assert ask(vllm, words, body={"cache_salt": "guessed"}).cached == 0


def test_both_api_servers_share_one_memory(vllm: VllmServer) -> None:
    ask(vllm, "My brother lives in Oslo.", "hugo")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: ask(vllm, "Where does my brother live?", "hugo"), range(24)))
    assert all("Oslo" in answer.text for answer in answers)
    served = set(re.findall(r"\(ApiServer_(\d) .*Received request chatcmpl", vllm.text()))
    assert served == {"0", "1"}


def test_vllm_writes_the_facts_that_memory_keeps(vllm: VllmServer) -> None:
    message = {"role": "user", "content": "My cousin moved to Ghent."}
    body = {"user_id": "nora", "messages": [message], "wait": True}
    assert native(vllm, "POST", "/v1/memory/add", json=body).status_code == 200
    entries = native(vllm, "GET", "/v1/memory/entries", params={"user_id": "nora"}).json()["entries"]
    assert any("Ghent" in entry["text"] for entry in entries), entries
    stats = native(vllm, "GET", "/v1/memory/stats").json()
    assert stats["usage"]["extract"]["calls"] >= 1
    assert stats["parked"] == []


async def test_the_owner_asks_vllm_by_its_own_token(vllm: VllmServer) -> None:
    engine = EngineClient(vllm.data_dir / "engine.sock")
    try:
        await engine.add(Scope(user="olga"), [Message("user", "My friend moved to Riga.")])
        question = [{"role": "user", "content": "Where does my friend live?"}]
        answer = await engine.chat(Scope(user="olga"), question, None, Sampling(max_tokens=32))
    finally:
        await engine.aclose()
    assert "Riga" in answer


def test_health_readiness_and_metrics(vllm: VllmServer) -> None:
    ask(vllm, "hello", "ivo")
    ready = native(vllm, "GET", "/health/ready", key=None)
    assert (ready.status_code, ready.json()) == (200, {"ready": True, "checks": {"engine": True, "model": True}})
    metrics = native(vllm, "GET", "/metrics", key=None).text
    assert "vllm:num_requests_running" in metrics
    assert re.search(r'lightmem:turns_total\{.*stored="true".*\} [1-9]', metrics)
    assert "ivo" not in metrics
    stats = native(vllm, "GET", "/v1/memory/stats").json()
    for name, value in (("engine_up", 1), ("users", stats["users"]), ("parked", len(stats["parked"]))):
        assert re.findall(rf"^lightmem:{name} (\S+)$", metrics, re.MULTILINE) == [str(float(value))], (
            "once, the owner's"
        )
    assert re.search(r'^lightmem:device_tokens_total\{lane="embed"\} [1-9]', metrics, re.MULTILINE)
    assert re.search(r'^lightmem:num_requests_running\{kind="chat"\} ', metrics, re.MULTILINE)
    open_format = native(vllm, "GET", "/metrics", key=None, headers={"accept": "application/openmetrics-text"})
    assert len(re.findall(r"^lightmem:messages_pending \S+$", open_format.text, re.MULTILINE)) == 1
    assert open_format.text.count("# EOF") == ("openmetrics" in open_format.headers["content-type"])


def test_a_client_that_leaves_frees_the_model(vllm: VllmServer) -> None:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Talk on and on."}],
        "stream": True,
        "max_tokens": 3500,
        "ignore_eos": True,
        "user": "jana",
    }
    headers = {"authorization": "Bearer red-key"}
    before = _written(vllm)
    with httpx.stream("POST", f"{vllm.url}/v1/chat/completions", json=body, headers=headers, timeout=60) as stream:
        assert b"chat.completion.chunk" in next(stream.iter_raw())
    deadline = time.monotonic() + 60
    last, now = -1.0, before
    while last != now:  # until it writes no more
        assert time.monotonic() < deadline
        time.sleep(0.5)
        last, now = now, _written(vllm)
    assert now - before < 3000


def test_an_unusable_memory_object_is_the_clients_fault(vllm: VllmServer) -> None:
    with client(vllm) as talker, pytest.raises(openai.BadRequestError, match="top_k"):
        talker.chat.completions.create(
            model=MODEL,
            messages=[{"role": "user", "content": "hello"}],
            extra_body={"memory": {"user_id": "kim", "top_k": "many"}},
        )


def _written(server: VllmServer) -> float:
    """Tokens that the model has written."""
    text = native(server, "GET", "/metrics", key=None).text
    return sum(float(value) for value in re.findall(r"^vllm:generation_tokens_total\{.*\} (\S+)$", text, re.MULTILINE))

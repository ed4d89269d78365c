"""`/v1/chat/completions` through the stock OpenAI client and plain HTTP, against the real server."""

from __future__ import annotations

import asyncio
import json
import uuid

import httpx
import pytest
from openai import APIStatusError, AsyncOpenAI, OpenAI

from tests.support.server import Server
from tests.support.waiting import wait_until

QUESTION = [{"role": "user", "content": "Good morning!"}]


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def _post(server: Server, body: object, **headers: str) -> httpx.Response:
    return httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=30)


def _log(server: Server, user: str) -> dict[str, int]:
    answer = httpx.get(f"{server.url}/v1/memory/stats", params={"user_id": user}, timeout=30)
    stats: dict[str, int] = answer.json()
    return stats


def test_a_stub_says_that_it_is_one(server: Server) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        assert [model.id for model in client.models.list()] == ["stub"]
        reply = client.chat.completions.create(model="stub", messages=QUESTION)  # type: ignore[arg-type]
    assert (reply.choices[0].message.content or "").startswith("stub")
    assert reply.usage is not None
    assert reply.usage.completion_tokens > 0


def test_without_identity_nothing_is_read_or_kept(server: Server) -> None:
    before = httpx.get(f"{server.url}/v1/memory/stats", timeout=30).json()["messages"]
    answer = _post(server, {"messages": QUESTION}).json()
    assert "memory" not in answer
    assert httpx.get(f"{server.url}/v1/memory/stats", timeout=30).json()["messages"] == before


@pytest.mark.parametrize("where", ["header", "memory", "user"])
def test_identity_comes_from_header_body_or_user(server: Server, user: str, where: str) -> None:
    body: dict[str, object] = {"messages": QUESTION}
    headers = {}
    if where == "header":
        headers["X-Memory-User-Id"] = user
        body |= {"user": "somebody else", "memory": {"user_id": "a third"}}
    elif where == "memory":
        body |= {"memory": {"user_id": user}, "user": "somebody else"}
    else:
        body["user"] = user
    memory = _post(server, body, **headers).json()["memory"]
    assert memory["stored"] is True
    assert memory["degraded"] is None
    assert _log(server, user)["messages"] == 2


def test_a_stream_carries_memory_on_the_chunk_that_finishes(server: Server, user: str) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="x") as client:
        stream = client.chat.completions.create(
            model="stub",
            messages=[{"role": "user", "content": "Good morning!"}],
            user=user,
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text.startswith("stub")
    finishing = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert len(finishing) == 1
    assert (finishing[0].model_extra or {})["memory"]["stored"] is True
    assert chunks[-1].usage is not None
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


async def test_the_async_client_and_many_at_once(server: Server, user: str) -> None:
    async with AsyncOpenAI(base_url=f"{server.url}/v1", api_key="x") as client:

        async def ask(n: int) -> str:
            stream = await client.chat.completions.create(
                model="stub", messages=[{"role": "user", "content": f"hello {n}"}], user=f"{user}{n}", stream=True
            )
            return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

        replies = await asyncio.gather(*(ask(n) for n in range(20)))
    assert all(f"hello {n}" in reply for n, reply in enumerate(replies))
    assert _log(server, f"{user}7")["messages"] == 2


def test_write_false_keeps_nothing_and_read_false_recalls_nothing(server: Server, user: str) -> None:
    _post(server, {"messages": [{"role": "user", "content": "My parrot is called Zazu."}], "user": user})
    body = {"messages": [{"role": "user", "content": "What is my parrot called?"}]}
    unread = _post(server, body | {"memory": {"user_id": user, "read": False, "write": False}}).json()["memory"]
    assert unread["used"] == []
    assert unread["stored"] is False
    read = _post(server, body | {"memory": {"user_id": user, "write": False}}).json()["memory"]
    assert read["used"]
    assert read["tokens_added"] > 0
    assert _log(server, user)["messages"] == 2


def test_what_the_request_holds_already_is_not_injected(server: Server, user: str) -> None:
    told = {"role": "user", "content": "My parrot is called Zazu."}
    reply = _post(server, {"messages": [told], "user": user}).json()["choices"][0]["message"]
    question = {"role": "user", "content": "What is my parrot called?"}
    answer = _post(server, {"messages": [told, reply, question], "user": user}).json()
    assert answer["memory"]["used"] == []


def test_multi_part_content(server: Server, user: str) -> None:
    parts = [{"type": "text", "text": "My parrot"}, {"type": "text", "text": "is called Zazu."}]
    assert _post(server, {"messages": [{"role": "user", "content": parts}], "user": user}).status_code == 200
    picture = [*parts, {"type": "image_url", "image_url": {"url": "data:,"}}]
    refused = _post(server, {"messages": [{"role": "user", "content": picture}], "user": user})
    assert refused.status_code == 400
    assert "messages[0].content[2]" in refused.json()["error"]["message"]
    hits = httpx.post(f"{server.url}/v1/memory/search", json={"user_id": user, "query": "parrot Zazu"}).json()["hits"]
    assert any("Zazu" in hit["text"] for hit in hits)


def test_an_unknown_model_is_named(server: Server) -> None:
    with OpenAI(base_url=f"{server.url}/v1", api_key="x") as client, pytest.raises(APIStatusError) as caught:
        client.chat.completions.create(model="gpt-17", messages=QUESTION)  # type: ignore[arg-type]
    assert caught.value.status_code == 404
    assert "gpt-17" in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": "hello"},
        {"messages": [{"content": "no role"}]},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": QUESTION, "temperature": 9},
        {"messages": QUESTION, "max_tokens": 0},
        {"messages": QUESTION, "memory": {"user_id": "u", "usr": 1}},
        {"messages": QUESTION, "user": "line\nbreak"},
        {"messages": QUESTION, "user": "x" * 300},
    ],
    ids=lambda body: json.dumps(body)[:40],
)
def test_a_bad_request_gets_a_clear_400(server: Server, body: object) -> None:
    answer = _post(server, body)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert set(error) == {"code", "message", "request_id"}
    assert error["code"] == "invalid_input"
    assert error["message"]


def test_a_body_that_is_no_json(server: Server) -> None:
    answer = httpx.post(f"{server.url}/v1/chat/completions", content=b"{", headers={"content-type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_input"


def test_a_client_that_leaves_mid_stream_leaves_a_partial_reply(server: Server, user: str) -> None:
    body = {"messages": [{"role": "user", "content": "word " * 100_000}], "user": user, "stream": True}
    with (
        httpx.Client(timeout=30) as client,
        client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as answer,
    ):
        next(answer.iter_lines())
    wait_until(lambda: _log(server, user)["messages"] == 2)
    search = {"user_id": user, "query": "word", "filters": {"partial": True}}
    hits = httpx.post(f"{server.url}/v1/memory/search", json=search, timeout=30).json()["hits"]
    assert hits
    assert {hit["speaker"] for hit in hits} == {"assistant"}

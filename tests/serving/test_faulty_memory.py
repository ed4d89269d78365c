"""Memory that fails, or whose clock jumps, never fails a chat."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from lightmem_engine.assemble import build
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.engine import LocalEngine
from lightmem_engine.errors import BackendUnavailable, StoreError
from lightmem_engine.serving.app import create_app
from lightmem_engine.serving.keys import KeyRing

CHAT = "/v1/chat/completions"


class _Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.time = datetime(2024, 5, 1, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.time

    def monotonic(self) -> float:
        return self.time.timestamp()


@pytest_asyncio.fixture
async def running(tmp_path: Path) -> AsyncIterator[tuple[LocalEngine, httpx.AsyncClient, _Clock]]:
    stubs: dict[str, Any] = {"embedder.stub": True, "classifier.source": "stub", "lm.backend": "stub"}
    config = replace(EngineConfig(data_dir=str(tmp_path / "data")), **stubs, **{"chat.budget_ms": 60_000.0})
    clock = _Clock()
    engine = await build(config, clock)
    app = create_app(engine, config, KeyRing(""))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        yield engine, client, clock
    await engine.aclose()


def _ask(content: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content}], "user": "ann", **fields}


async def test_a_clock_that_jumps_loses_nothing(running: tuple[LocalEngine, httpx.AsyncClient, _Clock]) -> None:
    _, client, clock = running
    for days, fact in ((0, "My cat is Miso."), (-4000, "My dog is Bruno."), (9000, "My bird is Zazu.")):
        clock.time += timedelta(days=days)
        memory = (await client.post(CHAT, json=_ask(fact))).json()["memory"]
        assert (memory["stored"], memory["degraded"]) == (True, None)
    for animal, name in (("cat", "Miso"), ("dog", "Bruno"), ("bird", "Zazu")):
        body = {"user_id": "ann", "query": f"my {animal}"}
        hits = (await client.post("/v1/memory/search", json=body)).json()["hits"]
        assert any(name in hit["text"] for hit in hits)


@pytest.mark.parametrize("error", [StoreError("gone"), BackendUnavailable("engine down"), OSError("disk")])
@pytest.mark.parametrize("where", ["open_turn", "close_turn"])
@pytest.mark.parametrize("stream", [False, True])
async def test_whatever_memory_raises(
    running: tuple[LocalEngine, httpx.AsyncClient, _Clock],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    where: str,
    stream: bool,
) -> None:
    engine, client, _ = running

    async def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    monkeypatch.setattr(engine, where, fail)
    answer = await client.post(CHAT, json=_ask("hello", stream=stream))
    assert answer.status_code == 200
    assert '"stored":false' in answer.text
    assert "said" in answer.text
    code = getattr(error, "code", "store_error")
    assert (f'"degraded":"{code}"' in answer.text) == (where == "open_turn")


async def test_a_failure_nobody_foresaw_is_a_500_without_its_words(
    running: tuple[LocalEngine, httpx.AsyncClient, _Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _, _ = running

    async def fail(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("secret words")

    monkeypatch.setattr(engine, "search", fail)
    app = create_app(engine, engine.config, KeyRing(""))
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        answer = await client.post(
            "/v1/memory/search", json={"user_id": "a", "query": "b"}, headers={"x-request-id": "r7"}
        )
    assert answer.status_code == 500
    assert answer.json() == {"error": {"code": "internal", "message": "internal error", "request_id": "r7"}}


async def test_a_client_that_leaves_while_memory_is_read_leaves_no_turn_open(
    running: tuple[LocalEngine, httpx.AsyncClient, _Clock], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, _, _ = running
    opening, left = asyncio.Event(), asyncio.Event()
    turns: dict[str, list[str]] = {"opened": [], "closed": []}
    open_turn, close_turn = engine.open_turn, engine.close_turn

    async def slowly(*arguments: Any, **options: Any) -> Any:
        opening.set()
        await left.wait()
        turn = await open_turn(*arguments, **options)
        turns["opened"].append(turn.turn_id)
        return turn

    async def noted(turn_id: str, *arguments: Any, **options: Any) -> bool:
        turns["closed"].append(turn_id)
        return await close_turn(turn_id, *arguments, **options)

    monkeypatch.setattr(engine, "open_turn", slowly)
    monkeypatch.setattr(engine, "close_turn", noted)
    body = json.dumps(_ask("hello")).encode()
    messages = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Any:
        if messages:
            return messages.pop()
        await opening.wait()
        left.set()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        pytest.fail("nobody is there to be answered")

    scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "query_string": b""}
    scope |= {"headers": [(b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http"}
    await create_app(engine, engine.config, KeyRing(""))(scope, receive, send)
    assert turns["opened"]
    assert turns["closed"] == turns["opened"]

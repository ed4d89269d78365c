"""Errors may quote what somebody said; the log does not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import httpx
import pytest

from lightmem_engine.assemble import build
from lightmem_engine.errors import LightMemError, StoreError
from lightmem_engine.stores.chats import Chats
from lightmem_engine.types import Scope
from tests.chat.talk import Talk
from tests.support.memory import quick_config
from tests.support.server import STUB_ENCODERS, Server
from tests.support.upstream import ScriptedUpstream, whole

CANARY = "xylophone-canary-2207"
CHAT = "/v1/chat/completions"


def test_a_model_server_that_complains_about_a_prompt(tmp_path: Path) -> None:
    settings = (*STUB_ENCODERS, "extract.mode=llm", "lm.model=m", "runtime.backoff_seconds=0.01")
    with ScriptedUpstream() as scripted:
        scripted.answer = lambda seen: whole({"error": {"message": f"cannot read {seen.body.decode()}"}}, 500)
        with Server(tmp_path / "data", settings, ["--upstream", scripted.url]) as server:
            said = {"messages": [{"role": "user", "content": CANARY}], "user": "ann"}
            for stream in (False, True):
                answer = httpx.post(server.url + CHAT, json=said | {"stream": stream}, timeout=30)
                assert answer.status_code == 500
                assert CANARY in answer.text  # who said it may read it
            flushed = httpx.post(f"{server.url}/v1/memory/flush", json={"user_id": "ann"}, timeout=30)
            assert flushed.status_code == 503
    assert any(CANARY in seen.body.decode() and "facts" in seen.body.decode() for seen in scripted.seen)
    log = server.log.read_text()
    assert "a stage is waiting to retry: BackendUnavailable" in log
    assert CANARY not in log


@pytest.mark.parametrize("method", ["look", "newest", "open", "close", "salt"])
async def test_a_store_that_fails_under_a_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, method: str
) -> None:
    async def fail(*_: Any) -> Any:
        raise StoreError(CANARY)

    caplog.set_level(logging.INFO)
    engine = await build(quick_config(tmp_path, **{"block.max_tokens": 8}))
    first = Talk(engine, session="first")
    await first.say("My parrot Zazu is green and lives in a large cage by the window.")
    await engine.flush(first.scope)  # more than the block holds
    talk = Talk(engine, Scope("bob") if method == "salt" else first.scope, session="s")
    monkeypatch.setattr(Chats, method, fail)
    try:
        await talk.say("hello", write=method != "salt")
    except LightMemError as error:
        pytest.fail(f"memory failed a chat: {error}")
    assert CANARY not in caplog.text
    assert "StoreError" in caplog.text
    await engine.aclose()

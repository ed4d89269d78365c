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


def test_what_keeps_the_stages_waiting_quotes_nobody_to_others(tmp_path: Path) -> None:
    settings = (*STUB_ENCODERS, "extract.mode=llm", "lm.model=m", "runtime.backoff_seconds=0.01")
    keys = tmp_path / "keys.toml"
    keys.write_text(
        '[[keys]]\nkey = "red"\ntenant = "red"\n[[keys]]\nkey = "blue"\ntenant = "blue"\n'
        '[[keys]]\nkey = "root"\ntenant = "red"\nadmin = true\n'
    )
    keys.chmod(0o600)
    with ScriptedUpstream() as scripted:
        scripted.answer = lambda seen: whole({"error": {"message": f"cannot read {seen.body.decode()}"}}, 500)
        arguments = ["--upstream", scripted.url, "--keys", str(keys)]
        with Server(tmp_path / "data", settings, arguments) as server:

            def call(route: str, key: str, **body: Any) -> httpx.Response:
                headers = {"authorization": f"Bearer {key}"}
                return httpx.post(f"{server.url}/v1/memory/{route}", json=body, headers=headers, timeout=30)

            said = [{"role": "user", "content": CANARY}]
            call("add", "blue", user_id="bob", messages=said, session_id="s").raise_for_status()
            assert call("flush", "blue", user_id="bob").status_code == 503  # from now on a stage waits
            harmless = [{"role": "user", "content": "hello"}]
            for answer in (
                call("add", "red", user_id="ann", messages=harmless, session_id="s", wait=True),
                call("flush", "red", user_id="ann"),
            ):
                assert answer.status_code == 503
                assert CANARY not in answer.text
                assert "tried again" in answer.json()["error"]["message"]
            assert "answered 500" in call("flush", "root", user_id="ann").json()["error"]["message"]


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

"""A conversation through the real server, killed in the middle: what was acknowledged is there, once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx

from tests.chat.talk import ANN, kept, texts
from tests.support.memory import assistant, user
from tests.support.server import STUB_MODELS, Server


def _answer(server: Server, history: list[dict[str, Any]]) -> dict[str, Any]:
    headers = {"X-Memory-User-Id": ANN.user, "X-Memory-Session-Id": "s"}
    body = {"messages": history}
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=30)
    assert answer.status_code == 200, answer.text
    told: dict[str, Any] = answer.json()
    assert told["memory"]["stored"] is True
    return told


def _say(server: Server, history: list[dict[str, Any]], text: str) -> None:
    history.append(user(text))
    history.append(assistant(_answer(server, history)["choices"][0]["message"]["content"]))


def test_a_conversation_survives_kill_9_an_edit_and_a_regenerated_reply(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    history: list[dict[str, Any]] = []
    with Server(directory, STUB_MODELS) as server:
        for number in range(6):
            _say(server, history, f"fact {number} about the harbour")
        server.kill()
    with Server(directory, STUB_MODELS) as server:
        _say(server, history, "fact 6 about the harbour")
        del history[4:]
        _say(server, history, "the harbour has moved")
        server.kill()
    with Server(directory, STUB_MODELS) as server:
        del history[-1]
        history.append(assistant(_answer(server, history)["choices"][0]["message"]["content"]))
        _say(server, history, "thank you")
        assert kept(directory) == texts(history)
        flushed = httpx.post(f"{server.url}/v1/memory/flush", json={"user_id": ANN.user}, timeout=30).json()
        assert flushed["pending"] == 0
        query = {"user_id": ANN.user, "query": "fact 4 about the harbour", "top_k": 50}
        hits = httpx.post(f"{server.url}/v1/memory/search", json=query, timeout=30).json()["hits"]
        assert hits
        assert not any(f"fact {number}" in hit["text"] for hit in hits for number in range(2, 7))

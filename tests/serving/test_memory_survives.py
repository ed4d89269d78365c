"""Facts told through the stock OpenAI client are recalled after kill -9, by their owner alone. Real MiniLM."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import OpenAI

from tests.support.server import UNHURRIED, Server

STUB_LM = ("lm.backend=stub", UNHURRIED)
FACTS = {
    "My sister Anna moved to Lisbon in March and works as a nurse.": "Where does my sister live?",
    "I am allergic to peanuts, so please never suggest satay.": "Which food am I allergic to?",
    "Our dog Bruno is a three year old beagle.": "What breed is our dog?",
    "I bought a red Canyon bicycle for 2400 euros.": "How much did the bicycle cost?",
    "My dentist appointment is on 14 June at 9:30.": "When do I see the dentist?",
}


def _client(server: Server) -> OpenAI:
    return OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def _tell(server: Server) -> dict[str, str]:
    """Tell every fact in one growing conversation; the id of the message that holds each."""
    with _client(server) as client:
        messages: list[dict[str, str]] = []
        for fact in FACTS:
            messages.append({"role": "user", "content": fact})
            reply = client.chat.completions.create(
                model="stub",
                messages=messages,  # type: ignore[arg-type]
                extra_headers={"X-Memory-User-Id": "ann", "X-Memory-Session-Id": "s1"},
            )
            assert reply.choices[0].finish_reason == "stop"
            assert reply.model_extra is not None
            assert reply.model_extra["memory"]["stored"] is True
            messages.append({"role": "assistant", "content": reply.choices[0].message.content or ""})
    entries = _search(server, "ann", "everything about me and my family", top_k=50)
    return {fact: next(h["source_ids"][0] for h in entries if fact in h["text"]) for fact in FACTS}


def _search(server: Server, user: str, query: str, top_k: int = 3) -> list[dict[str, Any]]:
    body = {"user_id": user, "query": query, "top_k": top_k}
    answer = httpx.post(f"{server.url}/v1/memory/search", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    hits: list[dict[str, Any]] = answer.json()["hits"]
    return hits


@pytest.mark.parametrize("flushed", [False, True], ids=["pending", "flushed"])
def test_facts_survive_kill_9(tmp_path: Path, flushed: bool) -> None:
    server = Server(tmp_path / "data", STUB_LM).wait_ready()
    try:
        ids = _tell(server)
        if flushed:
            stats = httpx.post(f"{server.url}/v1/memory/flush", json={"user_id": "ann"}, timeout=60).json()
            assert stats["pending"] == 0
    finally:
        server.kill()
    with Server(tmp_path / "data", STUB_LM) as server:
        for fact, question in FACTS.items():
            hits = _search(server, "ann", question)
            assert ids[fact] in hits[0]["source_ids"], (question, hits)
            assert _search(server, "eve", question) == []
        with _client(server) as client:
            reply = client.chat.completions.create(
                model="stub",
                messages=[{"role": "user", "content": "Where does my sister live?"}],
                extra_body={"memory": {"user_id": "ann", "session_id": "s2"}},
            )
            assert reply.model_extra is not None
            assert reply.model_extra["memory"]["used"]

"""Attention that a model server tells the owner on its socket, and what becomes of it; a real server, a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from lightmem_engine.client import EngineClient
from lightmem_engine.types import Scope, TurnOptions
from lightmem_engine.vllm_plugin.kept.link import OwnerLink
from lightmem_engine.wire_kv import ATTENTION_PATH
from tests.support.server import STUB_MODELS, Server

SERVED = ("embedder.stub=true", "classifier.source=served", "lm.url=http://127.0.0.1:9/v1", "lm.tells_attention=true")
PLAIN = ("extract.mode=extractive", "chat.budget_ms=60000", "sleep.mode=rules")
ANN = Scope("ann")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("told") / "data", (*SERVED, *PLAIN)) as found:
        yield found


@pytest.fixture
def link(server: Server) -> OwnerLink:
    return OwnerLink(server.log.with_suffix("") / "engine.sock")


def sensed(server: Server, user: str) -> dict[str, float | None]:
    """The stored attention mass of each of a user's messages, by its words."""
    text = httpx.get(f"{server.url}/v1/memory/export", params={"user_id": user}, timeout=60).text
    rows = [json.loads(line) for line in text.splitlines()]
    words = {row["id"]: row["content"] for row in rows if row["type"] == "message"}
    return {words[row["message"]]: row["mass"] for row in rows if row["type"] == "sensed"}


async def test_a_question_is_sensed_by_what_was_told_while_it_was_answered(server: Server, link: OwnerLink) -> None:
    client = EngineClient(server.log.with_suffix("") / "engine.sock")
    history = [
        {"role": "user", "content": "My sister lives in Riga."},
        {"role": "assistant", "content": "That is good to know."},
        {"role": "user", "content": "Where does she live?"},
    ]
    try:
        turn = await client.open_turn(ANN, history, TurnOptions(session="s"))
        texts = [message["content"] for message in history]
        told = {"texts": texts, "rows": [[0.0, 0.0, 9.0], [2.0, 2.0, 1.0], [3.0, 4.0, 1.0]]}
        assert link.call(ATTENTION_PATH, told) == {"noted": True}
        assert await client.close_turn(turn.turn_id, "In Riga.", "complete")
    finally:
        await client.aclose()
    httpx.post(f"{server.url}/v1/memory/flush", json={"user_id": "ann"}, timeout=60).raise_for_status()
    found = sensed(server, "ann")
    assert found["That is good to know."] == pytest.approx(2 / 3)
    assert found["Where does she live?"] == pytest.approx(3 / 4)
    answer = found["In Riga."]  # of which nothing was told
    assert answer is not None
    assert 0 < answer < 1


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"texts": ["a"], "rows": []},
        {"texts": ["a"], "rows": [[1.0, 2.0]]},
        {"texts": ["a"], "rows": [[1.0, 2.0, None]]},
        {"texts": [1], "rows": [[1.0, 2.0, 3.0]]},
        {"texts": ["a"], "rows": [[1.0, 2.0, 3.0]], "more": 1},
    ],
)
def test_what_makes_no_sense_is_refused(link: OwnerLink, body: dict[str, Any]) -> None:
    with pytest.raises(httpx.HTTPStatusError, match="400"):
        link.call(ATTENTION_PATH, body)


def test_it_is_told_on_the_socket_alone(server: Server) -> None:
    body = {"texts": ["a"], "rows": [[1.0, 2.0, 3.0]]}
    assert httpx.post(f"{server.url}{ATTENTION_PATH}", json=body, timeout=60).status_code == 404


def test_an_owner_that_goes_by_another_model_takes_none(tmp_path: Path) -> None:
    with Server(tmp_path / "data", STUB_MODELS), pytest.raises(httpx.HTTPStatusError, match="404"):
        OwnerLink(tmp_path / "data" / "engine.sock").call(ATTENTION_PATH, {"texts": [], "rows": []})

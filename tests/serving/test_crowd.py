"""Many streams at once, half of whose clients leave somewhere in the middle."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import httpx

from tests.serving.test_gateway import ASK, CHAT, _said
from tests.serving.test_operations import _metrics
from tests.support.server import STUB_ENCODERS, Server
from tests.support.upstream import DONE, ScriptedUpstream, chunk, chunked, event
from tests.support.waiting import wait_until

WORDS = [f"word{n} " for n in range(30)]
NUM_CLIENTS = 200


async def _talk(client: httpx.AsyncClient, url: str, user: str, leave_after: int | None) -> bytes:
    """Read the whole answer, or leave after so many bytes."""
    got = b""
    async with client.stream("POST", url, json=ASK | {"stream": True, "user": user}) as answer:
        assert answer.status_code == 200
        async for piece in answer.aiter_raw():
            got += piece
            if leave_after is not None and len(got) > leave_after:
                break
    return got


async def test_everybody_gets_an_answer_and_nothing_is_left_over(tmp_path: Path) -> None:
    chance = random.Random(5)
    events = [event(chunk({"content": word})) for word in WORDS]
    settings = (*STUB_ENCODERS, "extract.mode=extractive")
    with ScriptedUpstream() as scripted:
        scripted.plan = chunked([*events, event(chunk({}, "stop")), DONE])
        with Server(tmp_path / "data", settings, ["--upstream", scripted.url]) as gateway:
            leaving = [chance.randrange(4000) if chance.random() < 0.5 else None for _ in range(NUM_CLIENTS)]
            async with httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
                answers = await asyncio.gather(
                    *(_talk(client, gateway.url + CHAT, f"u{n}", after) for n, after in enumerate(leaving))
                )
            for after, answer in zip(leaving, answers, strict=True):
                if after is None:
                    assert answer.endswith(DONE)
                    assert b'"stored":true' in answer
            wait_until(lambda: _metrics(gateway)['lightmem:num_requests_running{kind="chat"}'] == 0)
            for n in range(0, NUM_CLIENTS, 10):
                assert "Good morning" in _said(gateway, f"u{n}", "user")
                reply = _said(gateway, f"u{n}", "assistant").removeprefix("assistant: ")
                assert "".join(WORDS).startswith(reply)
                if leaving[n] is None:
                    assert reply.strip() == "".join(WORDS).strip()
            assert "Traceback" not in gateway.log.read_text()

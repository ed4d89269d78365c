"""kill -9 while the engine sleeps: the run goes on, nothing is applied twice, and only calls in flight are repeated."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import httpx
import pytest

from bench.scripted import reply
from tests.models.chat_server import Script, running
from tests.support import night
from tests.support.server import STUB_ENCODERS, Server


def test_four_kills_of_one_run(tmp_path: Path) -> None:
    night.run_and_check(tmp_path / "data", pairs=16, kills=4, seed=1)


@pytest.mark.parametrize("point", ["sleep.answer:2", "sleep.commit:3", "sleep.answer:6"])
def test_what_happened_is_told_once_whenever_it_is_killed(tmp_path: Path, point: str) -> None:
    windows, at_once = 6, 2
    script = Script(reply=reply)
    with running(script):
        settings = (
            *(*STUB_ENCODERS, "extract.mode=extractive", "sleep.mode=llm", "sleep.threshold=0.99"),
            *("sleep.summaries=true", "sleep.summary_notes=1", f"runtime.max_background={at_once}"),
            *(f"lm.url={script.url}", "lm.model=m"),
        )
        data = tmp_path / "data"
        with Server(data, settings) as server, httpx.Client(base_url=server.url, timeout=60) as client:
            for day in range(1, windows + 1):
                said = {"role": "user", "content": f"lantern{day} walk", "timestamp": f"2023-05-0{day}T10:00:00Z"}
                body = {"user_id": "ann", "session_id": "s", "messages": [said], "wait": True}
                assert client.post("/v1/memory/add", json=body).status_code == 200
        server = Server(data, [*settings, f"runtime.failpoint={point}"]).wait_ready()
        with httpx.Client(base_url=server.url, timeout=30) as client:
            client.post("/v1/memory/sleep", json={})
            assert server.process.wait(30) == -9
        with Server(data, settings) as server, httpx.Client(base_url=server.url, timeout=60) as client:
            assert client.post("/v1/memory/sleep", json={"wait": True}).json()["state"] == "done"
    connection = sqlite3.connect(data / "memory.db")
    told = connection.execute("SELECT member, count(*) FROM summary_of WHERE is_own GROUP BY member").fetchall()
    assert [number for _, number in told] == [1] * windows
    (calls,) = connection.execute("SELECT sum(calls) FROM sleep_run").fetchone()
    connection.close()
    assert calls <= len(script.requests) <= calls + at_once, json.dumps(script.requests[-1])


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_fifty_kills(tmp_path: Path, seed: int) -> None:
    night.run_and_check(tmp_path / "data", pairs=40, kills=10, seed=seed)

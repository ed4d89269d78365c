"""Kill the server again and again while it sleeps, over memories of which each holds one correction."""

from __future__ import annotations

import json
import random
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import httpx

from tests.models.chat_server import Script, running
from tests.support.server import STUB_ENCODERS, Server

IN_FLIGHT = 3
POINTS = ("sleep.answer", "sleep.commit", "log.commit", "ack")
WORDS = ("kayak", "violin", "parrot", "kettle", "garden", "scooter", "blanket", "lantern", "teapot", "carpet")


def run_and_check(data_dir: Path, pairs: int, kills: int, seed: int) -> None:
    """Tell `pairs` corrections, start a run, kill the server at `kills` points, let it end; then check everything."""
    random_ = random.Random(seed)
    script = Script(reply=_last_wins, delay=0.002)
    with running(script):
        settings = [
            *STUB_ENCODERS,
            *(
                "sleep.mode=llm",
                "sleep.threshold=0.9",
                "sleep.max_notes=2",
                "extract.mode=extractive",
                "compress.rate=1.0",
            ),
            *(f"runtime.max_background={IN_FLIGHT}", f"lm.url={script.url}", "lm.model=m"),
        ]
        with Server(data_dir, settings) as server, httpx.Client(base_url=server.url, timeout=60) as client:
            for number in range(2 * pairs):
                _tell(client, number, f"{_thing(number % pairs)} {number}")
        died = 0
        for round_ in range(kills):
            point = f"runtime.failpoint={random_.choice(POINTS)}:{random_.randint(1, 4)}"
            died += _night(data_dir, [*settings, point], start=round_ == 0)
        with Server(data_dir, settings) as server, httpx.Client(base_url=server.url, timeout=60) as client:
            last = client.post("/v1/memory/sleep", json={"wait": True}).json()
            assert last["state"] == "done", last
            calls = len(script.requests)
            assert client.post("/v1/memory/sleep", json={"wait": True}).json()["calls"] == 0
            assert len(script.requests) == calls
    assert died, "no point was reached"
    assert calls <= _counted(data_dir) + died * IN_FLIGHT
    _check(data_dir, pairs)


def _night(data_dir: Path, settings: list[str], *, start: bool) -> bool:
    """Let a server sleep until its failpoint kills it or the run is over; True if it was killed."""
    server = Server(data_dir, settings)
    try:
        server.wait_ready()
        with httpx.Client(base_url=server.url, timeout=30) as client:
            if start:
                client.post("/v1/memory/sleep", json={})
            while server.process.poll() is None:
                runs = client.get("/v1/memory/sleep").json()["runs"]
                if all(one["state"] != "running" for one in runs):
                    break
                time.sleep(0.01)
    except httpx.TransportError:
        server.process.wait(10)
    except AssertionError:
        if server.process.returncode != -9:  # killed while it was starting
            raise
    killed = server.process.poll() == -9
    server.kill()
    return killed


def _tell(client: httpx.Client, number: int, content: str) -> None:
    when = f"2023-{1 + number // 28:02}-{1 + number % 28:02}T10:00:00Z"
    message = {"role": "user", "content": content, "id": f"m{number}", "timestamp": when}
    body = {"user_id": f"user{number % 2}", "messages": [message], "session_id": "s", "wait": True}
    assert client.post("/v1/memory/add", json=body).status_code == 200


def _thing(number: int) -> str:
    """Words that are like themselves and like nothing else."""
    return " ".join([f"{WORDS[number % len(WORDS)]}{number}"] * 6)


def _last_wins(request: dict[str, Any]) -> str:
    """Each target superseded by the newest note about the same thing; some may be like others by chance."""
    asked = request["messages"][-1]["content"]
    things = {int(n): thing for n, thing in re.findall(r"^(\d+) \[.*?\] user: (\w+)", asked, re.MULTILINE)}
    decisions = []
    for target in map(int, asked.rpartition("Decide: ")[2].split()):
        last = max(n for n, thing in things.items() if thing == things[target])
        action = {"action": "ignore"} if last == target else {"action": "supersede", "by": last}
        decisions.append({"entry": target, **action})
    return json.dumps({"decisions": decisions})


def _check(data_dir: Path, pairs: int) -> None:
    """Each older entry is superseded once, each newer one untouched; the diff says so once."""
    connection = sqlite3.connect(data_dir / "memory.db")
    rows = connection.execute(
        "SELECT m.id, count(*), max(e.version), (SELECT state FROM entry l WHERE l.id = e.id ORDER BY version DESC "
        "LIMIT 1) FROM entry e JOIN entry_source s ON s.entry = e.id AND s.version = e.version "
        "JOIN message m ON m.seq = s.message GROUP BY m.id"
    ).fetchall()
    found = {id: (versions, newest, state) for id, versions, newest, state in rows}
    for number in range(2 * pairs):
        expected = (2, 2, "superseded") if number < pairs else (1, 1, "active")
        assert found[f"m{number}"] == expected, (number, found[f"m{number}"])
    assert connection.execute("SELECT count(*), count(DISTINCT entry) FROM sleep_change").fetchone() == (pairs, pairs)
    assert connection.execute("SELECT sum(applied) FROM sleep_run").fetchone() == (pairs,)
    connection.close()


def _counted(data_dir: Path) -> int:
    """Calls whose answers were applied."""
    connection = sqlite3.connect(data_dir / "memory.db")
    (calls,) = connection.execute("SELECT sum(calls) FROM sleep_run").fetchone()
    connection.close()
    return int(calls)

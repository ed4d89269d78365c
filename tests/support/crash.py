"""Kill the server again and again while a client adds messages and retries what was not acknowledged."""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.server import STUB_MODELS, Server

FAILPOINTS = ("log.commit", "stage.commit", "index.apply", "ack")
NUM_USERS = 5
SETTINGS = (*STUB_MODELS, "short_term.idle_seconds=0.05", "short_term.threshold=20", "segment.lookahead=1")


@dataclass(slots=True)
class Ledger:
    """What the client knows: per message id its user, text, and whether a server acknowledged it."""

    users: dict[str, str] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    acknowledged: set[str] = field(default_factory=set)

    def new(self) -> str:
        """A message that nobody has seen yet."""
        number = len(self.users)
        id = f"m{number}"
        self.users[id] = f"user{number % NUM_USERS}"
        self.texts[id] = f"Fact {number}: the {number}th parcel of client c{number} weighs {number * 7} grams."
        return id

    def open(self) -> list[str]:
        """Messages to send (again)."""
        return [id for id in self.users if id not in self.acknowledged]


def run(data_dir: Path, rounds: int, seed: int) -> Ledger:
    """Rounds of start, add, die; then one clean start that takes the rest and flushes. Returns the client's ledger."""
    random_ = random.Random(seed)
    ledger = Ledger()
    for round_ in range(rounds):
        name = FAILPOINTS[round_ % (len(FAILPOINTS) + 1)] if round_ % (len(FAILPOINTS) + 1) < len(FAILPOINTS) else ""
        point = [f"runtime.failpoint={name}:{random_.randint(1, 12)}"] if name else []
        server = Server(data_dir, [*SETTINGS, *point])
        try:
            _until_death(server, ledger, random_, at_random=not name)
        finally:
            server.kill()
    with Server(data_dir, SETTINGS) as server, httpx.Client(base_url=server.url, timeout=60) as client:
        for id in ledger.open():
            assert _add(client, ledger, id)
        stats = client.post("/v1/memory/flush", json={}).json()
        assert stats["pending"] == 0, stats
        assert stats["parked"] == [], stats
    return ledger


def check(data_dir: Path, ledger: Ledger) -> None:
    """Every acknowledged message is in the log once, and in memory once."""
    connection = sqlite3.connect(data_dir / "memory.db")
    logged = connection.execute("SELECT id, user, content FROM message").fetchall()
    sources = connection.execute(
        "SELECT m.id FROM entry e JOIN entry_source s ON s.entry = e.id AND s.version = e.version "
        "JOIN message m ON m.seq = s.message WHERE e.state = 'active'"
    ).fetchall()
    segmented = connection.execute("SELECT count(*) FROM sensed WHERE segment IS NULL").fetchone()[0]
    connection.close()
    assert ledger.acknowledged == set(ledger.users)
    assert sorted(id for id, _, _ in logged) == sorted(ledger.users)
    assert {id: (user, text) for id, user, text in logged} == {
        id: (ledger.users[id], ledger.texts[id]) for id in ledger.users
    }
    assert sorted(id for (id,) in sources) == sorted(ledger.users)
    assert segmented == 0


def _until_death(server: Server, ledger: Ledger, random_: random.Random, *, at_random: bool) -> None:
    """Send until the server dies of its failpoint, or is killed at a random moment."""
    try:
        server.wait_ready()
    except AssertionError:
        if server.process.returncode == -9:  # a failpoint in the start-up's own writes
            return
        raise
    killer = threading.Timer(random_.uniform(0.02, 0.6), server.process.kill)
    if at_random:
        killer.start()
    deadline = time.monotonic() + 3.0
    with httpx.Client(base_url=server.url, timeout=10) as client:
        while server.process.poll() is None and time.monotonic() < deadline:
            waiting = ledger.open() or [ledger.new()]
            try:
                if _add(client, ledger, waiting[0]) and random_.random() < 0.2:
                    user = ledger.users[waiting[0]]
                    client.post("/v1/memory/search", json={"user_id": user, "query": "Which parcel weighs most?"})
            except httpx.TransportError:
                break
    killer.cancel()


def _add(client: httpx.Client, ledger: Ledger, id: str) -> bool:
    """One add; True once it is acknowledged."""
    message = {"id": id, "role": "user", "content": ledger.texts[id]}
    answer = client.post("/v1/memory/add", json={"user_id": ledger.users[id], "messages": [message]})
    assert answer.status_code == 200, answer.text
    ledger.acknowledged.add(id)
    return True

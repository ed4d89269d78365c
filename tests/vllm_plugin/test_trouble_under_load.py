"""While many chat with vLLM the owner's disk fills up, the owner is killed, and its database is damaged.

Every chat is answered, the answers say what is wrong, and in the end all that was acknowledged is there.
"""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any

from bench.bench_chaos import PAGE, overwrite
from bench.chaos_clients import Account, Talkers, Turn
from tests.support.vllm_server import MODEL, VllmServer
from tests.support.vllm_talk import THINKING_OFF, native

KEY = {"authorization": "Bearer red-key"}
WANTED: dict[str, Any] = {"model": MODEL, "max_tokens": 6, "temperature": 0, **THINKING_OFF}
NUM_TALKERS = 4
PATIENCE_SECONDS = 90.0
Seen = Callable[[Turn], bool]


class Load:
    """Clients who chat all the time, each turn noted as it ends."""

    def __init__(self, url: str) -> None:
        self.turns: list[Turn] = []
        self._url = url
        self._talkers = Talkers(KEY, WANTED)
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._talk) for _ in range(NUM_TALKERS)]

    def until(self, what: str, seen: Seen, *, times: int = NUM_TALKERS + 1) -> None:
        """Wait for so many turns of a kind, of those that end from now on: one more than there are talkers, so that one
        at least has begun since."""
        start, deadline = len(self.turns), time.monotonic() + PATIENCE_SECONDS
        while sum(map(seen, self.turns[start:])) < times:
            assert time.monotonic() < deadline, (what, Counter((t.stored, t.degraded) for t in self.turns[start:]))
            time.sleep(0.02)

    def _talk(self) -> None:
        while not self._is_over.is_set():
            self.turns.append(self._talkers.one(self._url))

    @contextmanager
    def running(self) -> Iterator[None]:
        """While the context lasts."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._is_over.set()
            for thread in self._threads:
                thread.join()


def test_chats_go_on_and_nothing_acknowledged_is_lost(vllm: VllmServer) -> None:
    load = Load(vllm.url)
    with load.running():
        load.until("a calm beginning", _is_well, times=8)
        _fill_the_disk(vllm, load)
        _kill(vllm, load)
        _damage(vllm, load)
    account = Account(load.turns)
    assert account.seen == Counter({"200": len(load.turns)}), "whatever becomes of memory, chats are answered"
    reasons = {"store_error", "engine_down", "corrupt_store"}
    assert account.degraded.keys() >= reasons, account.degraded
    assert all(turn.reply for turn in load.turns)
    assert not any(turn.stored for turn in load.turns if turn.degraded in reasons)
    account.settle(vllm.url, KEY)
    assert len(account.acknowledged) >= 20
    assert (account.lost, account.doubled) == (0, 0)
    assert native(vllm, "GET", "/health/ready", key=None).json()["ready"]


def _fill_the_disk(vllm: VllmServer, load: Load) -> None:
    """No file of the owner's may grow any more; then there is room again."""
    owner = vllm.owner()
    unlimited = resource.prlimit(owner, resource.RLIMIT_FSIZE)
    resource.prlimit(owner, resource.RLIMIT_FSIZE, (PAGE, unlimited[1]))
    load.until("a full disk", lambda turn: turn.degraded == "store_error")
    resource.prlimit(owner, resource.RLIMIT_FSIZE, unlimited)
    load.until("room again", _is_well)
    assert vllm.owner() == owner, "it needed no new start"


def _kill(vllm: VllmServer, load: Load) -> None:
    owner = vllm.owner()
    os.kill(owner, signal.SIGKILL)
    load.until("no owner", lambda turn: turn.degraded == "engine_down", times=1)
    _soon(vllm, lambda: vllm.owner() != owner)
    load.until("another owner", _is_well)


def _damage(vllm: VllmServer, load: Load) -> None:
    """Noise in the file that the owner has open; it is noticed, and no start is made over it; then it is mended."""
    file = vllm.data_dir / "memory.db"
    owner = vllm.owner()
    with closing(sqlite3.connect(file, timeout=30)) as database:
        # All of the log into the file, and the log emptied: what is damaged then is nowhere else.
        _soon(vllm, lambda: database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)
    os.kill(owner, signal.SIGSTOP)  # so that file and damage are of one moment
    try:
        sound = file.read_bytes()
        garbage = overwrite(file, sound)
    finally:
        os.kill(owner, signal.SIGCONT)
    load.until("damage", lambda turn: turn.degraded == "corrupt_store")
    assert not native(vllm, "GET", "/health/ready", key=None).json()["checks"]["engine"]
    said = vllm.text().count("owner ended with 1 ")
    os.kill(owner, signal.SIGKILL)
    _soon(vllm, lambda: vllm.text().count("owner ended with 1 ") > said)
    load.until("no owner", lambda turn: turn.degraded == "engine_down")
    with file.open("r+b") as handle:
        now = file.read_bytes()
        for at, bad in garbage.items():
            if now[at : at + PAGE] == bad:  # what a checkpoint has written anew since is sound
                handle.seek(at)
                handle.write(sound[at : at + PAGE])
    load.until("a mended file", _is_well)


def _is_well(turn: Turn) -> bool:
    return turn.stored and turn.degraded is None


def _soon(vllm: VllmServer, is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not is_so():
        assert time.monotonic() < deadline, vllm.text()[-3000:]
        time.sleep(0.05)

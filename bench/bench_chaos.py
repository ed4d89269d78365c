"""What clients see and what is stored when things break: a table.

    python -m bench.bench_chaos [--small] [--dry]

Real servers in front of a scripted model server; the disk fills up, the process is killed, the file is damaged, the
model server fails, two hundred clients come at once and half of them leave. Every client notes what it was told; in the
end an export says what is stored. Exit code 1 if anything that was acknowledged is lost, or anything is stored twice.
Rows in bench/results/chaos.csv.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import resource
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from bench.chaos_clients import Account, Talkers, replies, wants_stream
from bench.harness import parser_of, table_of
from tests.support.server import STUB_ENCODERS, Server
from tests.support.upstream import Abort, Hang, ScriptedUpstream, Seen, Step, chunk, chunked, event, whole

SETTINGS = (
    *(*STUB_ENCODERS, "chat.budget_ms=0", "extract.mode=extractive", "upstream.read_seconds=1"),
    *("short_term.idle_seconds=0.1", "short_term.threshold=30", "segment.lookahead=1"),
)
PAGE = 4096


@dataclass(frozen=True, slots=True)
class Ground:
    """Where a scenario takes place. chats: about how many it has."""

    directory: Path
    upstream: ScriptedUpstream
    chats: int

    def server(self) -> Server:
        """A gateway over the scenario's data."""
        return Server(self.directory / "data", SETTINGS, ["--upstream", self.upstream.url])

    @property
    def file(self) -> Path:
        """The database."""
        return self.directory / "data" / "memory.db"


def disk_full(ground: Ground) -> Account:
    """No file may grow any more while clients talk; then there is room again."""
    account, talkers = Account(), Talkers()
    with ground.server() as server:
        account.turns += talkers.many(server.url, ground.chats)
        unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
        written = ground.file.with_name("memory.db-wal").stat().st_size
        for room in (written + 8 * PAGE, PAGE):  # full soon, and then for everything
            resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (room, unlimited[1]))
            account.turns += talkers.many(server.url, ground.chats // 2)
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
        after = talkers.many(server.url, ground.chats // 4)
        account.turns += after
        account.remarks.append(f"with room again, {sum(turn.stored for turn in after)} of {len(after)} turns stored")
        account.settle(server.url)
    return account


def killed(ground: Ground) -> Account:
    """kill -9 in the middle of chats, again and again."""
    account, talkers, chance = Account(), Talkers(), random.Random(3)
    rounds = 5 if ground.chats > 50 else 2
    for _ in range(rounds):
        server = ground.server().wait_ready()
        account.turns += talkers.many(server.url, 2)  # so that even a slow machine has something to lose
        killer = threading.Timer(chance.uniform(0.5, 1.5), server.process.kill)
        killer.start()
        account.turns += talkers.many(server.url, 10_000, until=partial(_is_dead, server))
        killer.join()
        server.kill()
    with ground.server() as server:
        account.settle(server.url)
    account.remarks.append(f"{rounds} kills, each followed by a start over the same directory")
    return account


def damaged_while_stopped(ground: Ground) -> Account:
    """Pages are overwritten between two runs."""
    account, talkers = Account(), Talkers()
    with ground.server() as server:
        account.turns += talkers.many(server.url, ground.chats)
    sound = ground.file.read_bytes()
    overwrite(ground.file, sound)
    _refused(ground, account)
    ground.file.write_bytes(sound)
    with ground.server() as server:
        account.turns += talkers.many(server.url, ground.chats // 4)
        account.settle(server.url)
    account.remarks.append("with the pages restored, everything is there")
    return account


def damaged_while_running(ground: Ground) -> Account:
    """Pages are overwritten under a server that goes on; then it is stopped, and the pages are restored."""
    account, talkers = Account(), Talkers()
    with ground.server() as server:
        account.turns += talkers.many(server.url, ground.chats)
        httpx.post(f"{server.url}/v1/memory/flush", json={}, timeout=60).raise_for_status()
    server = ground.server().wait_ready()
    try:
        sound = ground.file.read_bytes()
        garbage = overwrite(ground.file, sound)
        account.turns += talkers.many(server.url, ground.chats)
        health = httpx.get(f"{server.url}/health/ready", timeout=30).status_code
    finally:
        server.stop()
    account.remarks.append(f"/health/ready while damaged: {health}")
    now = ground.file.read_bytes()
    if any(now[at : at + PAGE] == bad for at, bad in garbage.items()):
        _refused(ground, account)
    with ground.file.open("r+b") as file:
        for at, bad in garbage.items():
            if now[at : at + PAGE] == bad:  # what a checkpoint has written anew since is sound
                file.seek(at)
                file.write(sound[at : at + PAGE])
    with ground.server() as server:
        account.settle(server.url)
    account.remarks.append("with the pages restored, everything acknowledged is there")
    return account


def failing_upstream(ground: Ground) -> Account:
    """The model server hangs, resets, says 500, or dies in the middle of its answers."""
    account, talkers = Account(), Talkers()
    sound, numbers = replies(), itertools.count()

    def answer(seen: Seen) -> Sequence[Step]:
        number = next(numbers)
        begun = chunked([event(chunk({"content": f"Half an answer{number}"}))], end=False)
        failures: list[Sequence[Step]] = [[Hang()], [Abort()], whole({"error": {"message": "broken"}}, 500)]
        if wants_stream(seen):
            failures += [[*begun, Hang()], [*begun, Abort()], [*begun, b"0\r\n\r\n"]]
        kind = number % 8
        return failures[kind] if kind < len(failures) else sound(seen)

    ground.upstream.answer = answer
    with ground.server() as server:
        account.turns += talkers.many(server.url, ground.chats)
        account.settle(server.url)
        rows = httpx.get(f"{server.url}/v1/memory/export", timeout=60).text
    kept = sum(turn.said in rows for turn in account.turns)
    account.remarks.append(f"questions stored, whatever became of the answer: {kept} of {len(account.turns)}")
    account.remarks.append(f"replies cut off and kept as partial: {rows.count('Half an')}")
    return account


def crowd(ground: Ground) -> Account:
    """Streams all at once, half of whose clients leave somewhere in the middle."""
    account, talkers = Account(), Talkers()
    ground.upstream.answer = replies(30)
    with ground.server() as server:
        count = 200 if ground.chats > 50 else 40
        account.turns += asyncio.run(talkers.crowd(server.url, count, 0.5))
        deadline = time.monotonic() + 30
        while _running(server) and time.monotonic() < deadline:
            time.sleep(0.05)
        account.remarks.append(f"chats still under way at the end: {_running(server):.0f}")
        account.settle(server.url)
    return account


SCENARIOS: dict[str, Callable[[Ground], Account]] = {
    "disk full": disk_full,
    "killed with -9": killed,
    "database damaged while stopped": damaged_while_stopped,
    "database damaged while running": damaged_while_running,
    "model server fails": failing_upstream,
    "200 streams, half of them left": crowd,
}


def _is_dead(server: Server) -> bool:
    return server.process.poll() is not None


def overwrite(file: Path, sound: bytes) -> dict[int, bytes]:
    """Noise in place of every third page; the places, with the noise."""
    chance = random.Random(9)
    garbage = {at: chance.randbytes(PAGE) for at in range(2 * PAGE, len(sound) - PAGE + 1, 3 * PAGE)}
    with file.open("r+b") as handle:
        for at, bad in garbage.items():
            handle.seek(at)
            handle.write(bad)
    return garbage


def _refused(ground: Ground, account: Account) -> None:
    """A start over a damaged file ends at once, says so, and changes nothing."""
    before = ground.file.read_bytes()
    server = ground.server()
    code = server.process.wait(60)
    said = server.log.read_text().strip().splitlines()[-1]
    is_same = ground.file.read_bytes() == before
    account.remarks.append(f"start refused with {code}: {said.rpartition('memory.db')[2].strip(': ')[:60]!r}")
    if code != 1 or not is_same or "Traceback" in server.log.read_text():
        raise AssertionError(f"a damaged file: exit {code}, unchanged {is_same}: {said}")


def _running(server: Server) -> float:
    lines = httpx.get(f"{server.url}/metrics", timeout=30).text.splitlines()
    name = 'lightmem:num_requests_running{kind="chat"}'
    return next((float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)), 0.0)


def _counts(counts: Counter[str]) -> str:
    return ", ".join(f"{count} × {what}" for what, count in sorted(counts.items())) or "none"


def markdown(accounts: dict[str, Account]) -> str:
    """The table for people."""
    lines = [
        "| scenario | what clients saw | degraded | turns acknowledged | messages stored | lost | twice | besides |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, one in accounts.items():
        cells = [name, _counts(one.seen), _counts(one.degraded), len(one.acknowledged), one.stored, one.lost]
        lines.append(" | ".join(["|", *map(str, cells), str(one.doubled), "; ".join(one.remarks), "|"]).strip())
    return "\n".join(line.replace("| |", "|") for line in lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Break everything once; exit code 1 if that cost anything that was acknowledged."""
    parser = parser_of(__doc__)
    parser.add_argument("names", metavar="SCENARIO", nargs="*", help=f"of: {', '.join(SCENARIOS)}")
    parser.add_argument("--small", action="store_true", help="a fifth of the requests")
    args = parser.parse_args(argv)
    for name in args.names:
        if name not in SCENARIOS:
            parser.error(f"no scenario is called {name!r}")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    table = table_of("chaos", args)
    accounts: dict[str, Account] = {}
    for name in args.names or SCENARIOS:
        with tempfile.TemporaryDirectory() as directory, ScriptedUpstream() as upstream:
            upstream.answer = replies()
            account = accounts[name] = SCENARIOS[name](Ground(Path(directory), upstream, 24 if args.small else 200))
        for seen, count in sorted(account.seen.items()):
            table.value({"scenario": name, "seen": seen}, "requests", "requests", count)
        for reason, count in sorted(account.degraded.items()):
            table.value({"scenario": name, "degraded": reason}, "turns degraded", "turns", count)
        table.value({"scenario": name}, "turns acknowledged", "turns", len(account.acknowledged))
        table.value({"scenario": name}, "messages stored", "messages", account.stored)
        table.value({"scenario": name}, "messages acknowledged and lost", "messages", account.lost)
        table.value({"scenario": name}, "messages stored twice", "messages", account.doubled)
    print(markdown(accounts))
    return 1 if any(account.lost or account.doubled for account in accounts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())

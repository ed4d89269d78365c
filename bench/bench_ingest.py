"""Adding under load: the real server as a process of its own, many users, many connections.

    python -m bench.bench_ingest [--messages 10000] [--users 500] [--connections 32] [--mixed] [--stub]
        [--set OPTION=VALUE] [--dry]

Without --mixed, rows in bench/results/ingest.csv: errors, latency of `POST /v1/memory/add`, messages acknowledged per
second, memory of the server process when 2,000 and all messages are acknowledged and after everything is long-term
memory, seconds from the first message until `stats` shows nothing pending and nothing parked (the silence that closes
a session, `short_term.idle_seconds`, is part of it). With --mixed, latency of search and chat on an idle server, while
messages arrive, and while what arrived is worked off. The client shares the machine's cores with the server, so its
own time is in every latency. Exit code 1 if a request failed or a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from bench.dialogues import Saying, question, sayings
from bench.harness import Table, parser_of, table_of
from tests.support.server import STUB_MODELS, Server

MAX_GROWTH_MB = 100.0
MAX_DRAIN_SECONDS = 600.0
POLL_SECONDS = 2.0
STUB_SETTINGS = (*STUB_MODELS, "short_term.idle_seconds=0.2")


@dataclass(slots=True)
class Load:
    """What to send, and what became of it."""

    todo: Iterator[Saying]
    marks: Sequence[int]  # numbers of acknowledged messages at which the server's memory is read
    times: list[float] = field(default_factory=list)  # milliseconds of each acknowledged add
    errors: list[str] = field(default_factory=list)
    rss: dict[int, float] = field(default_factory=dict)  # MB by number of acknowledged messages


async def add_all(server: Server, load: Load, num_connections: int, deadline: float) -> float:
    """Send everything, each connection one message after another; seconds until the last acknowledgement."""
    started = time.perf_counter()
    async with _client(server, num_connections) as client:
        await asyncio.gather(*(_connection(client, server, load, deadline) for _ in range(num_connections)))
    return time.perf_counter() - started


async def _connection(client: httpx.AsyncClient, server: Server, load: Load, deadline: float) -> None:
    for saying in load.todo:
        if time.monotonic() > deadline:
            load.errors.append("out of time")
            return
        started = time.perf_counter()
        try:
            answer = await client.post("/v1/memory/add", json=saying.body())
        except httpx.TransportError as error:
            load.errors.append(f"{type(error).__name__}: {error}")
            continue
        if answer.status_code != 200 or answer.json()["message_ids"] != [saying.id]:
            load.errors.append(f"{answer.status_code}: {answer.text[:200]}")
            continue
        load.times.append((time.perf_counter() - started) * 1000)
        if len(load.times) in load.marks:
            load.rss[len(load.times)] = rss_mb(server.process.pid)


async def drained(server: Server, num_messages: int, deadline: float) -> dict[str, Any]:
    """Wait until `stats` shows every message and nothing pending; returns what it shows then, or at the deadline."""
    async with _client(server, 1) as client:
        while True:
            stats: dict[str, Any] = (await client.get("/v1/memory/stats")).json()
            if (stats["pending"] == 0 and stats["messages"] >= num_messages) or time.monotonic() > deadline:
                return stats
            await asyncio.sleep(POLL_SECONDS if num_messages > 500 else 0.05)


def rss_mb(pid: int) -> float:
    """Resident memory of a process in MB (10^6 bytes); nan where the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return float("nan")
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))
    return int(kilobytes) * 1024 / 1e6


def measure_ingest(args: argparse.Namespace, table: Table) -> list[str]:
    """Record the plain variant; returns what went wrong."""
    case = _case(args)
    first_mark = args.messages // 5
    load = Load(iter(list(sayings(args.messages, args.users))), (first_mark, args.messages))
    deadline = time.monotonic() + args.max_seconds
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory) / "data", _settings(args)) as server:
        table.value(case, "rss at the start", "MB", rss_mb(server.process.pid))
        started = time.perf_counter()
        seconds = asyncio.run(add_all(server, load, args.connections, deadline))
        table.value(case, "errors", "requests", len(load.errors))
        table.spread(case, "add latency", "ms", load.times)
        table.value(case, "acknowledged", "messages/s", len(load.times) / seconds)
        for mark in load.rss:
            table.value(case, f"rss at message {mark}", "MB", load.rss[mark])
        stats = asyncio.run(drained(server, len(load.times), deadline))
        total = time.perf_counter() - started
        table.value(case, "pending at the end", "messages", stats["pending"])
        table.value(case, "parked at the end", "items", len(stats["parked"]))
        end = "given up" if stats["pending"] else "drained"
        table.value(case, f"{end} after", "s", total)
        table.value(case, "entries", "entries", stats["entries"])
        table.value(case, f"rss when {end}", "MB", rss_mb(server.process.pid))
        for lane, use in stats["device"].items():
            table.value(case, f"device time of {lane}", "s", use["seconds"])
    problems = sorted(set(load.errors))
    if stats["pending"] or stats["parked"]:
        problems.append(f"{stats['pending']} messages pending, {len(stats['parked'])} parked")
    if total > MAX_DRAIN_SECONDS:
        problems.append(f"drained after {total:.0f} s, goal {MAX_DRAIN_SECONDS:.0f} s")
    if first_mark in load.rss and args.messages in load.rss:
        growth = load.rss[args.messages] - load.rss[first_mark]
        table.value(case, f"rss growth from message {first_mark} to {args.messages}", "MB", growth)
        if growth > MAX_GROWTH_MB:
            problems.append(f"memory grew by {growth:.0f} MB, goal {MAX_GROWTH_MB:.0f} MB")
    return problems


def measure_mixed(args: argparse.Namespace, table: Table) -> list[str]:
    """Record latency of searches and chats beside adding; returns what went wrong."""
    case = _case(args)
    deadline = time.monotonic() + args.max_seconds
    problems: list[str] = []
    with tempfile.TemporaryDirectory() as directory, Server(Path(directory) / "data", _settings(args)) as server:
        before = Load(iter(list(sayings(args.users * 10, args.users, seed=1, prefix="asker"))), ())
        asyncio.run(add_all(server, before, args.connections, deadline))
        httpx.post(f"{server.url}/v1/memory/flush", json={}, timeout=args.max_seconds)
        load = Load(iter(list(sayings(args.messages, args.users))), ())
        phases: list[tuple[str, Callable[[], Awaitable[Any]]]] = [
            ("idle", lambda: asyncio.sleep(args.idle_seconds)),
            ("messages arrive", lambda: add_all(server, load, args.connections, deadline)),
            ("backlog", lambda: drained(server, len(before.times) + len(load.times), deadline)),
        ]
        for phase, work in phases:
            found = asyncio.run(_ask_meanwhile(server, args.users, work))
            problems += [*found.errors, *load.errors]
            for what, times in found.times.items():
                table.spread(case | {"meanwhile": phase}, f"{what} latency", "ms", times)
        table.value(case, "errors", "requests", len(problems) + len(before.errors))
    return sorted({*problems, *before.errors})


@dataclass(slots=True)
class Asked:
    """Milliseconds of each request by kind, and what failed."""

    times: dict[str, list[float]]
    errors: list[str]


async def _ask_meanwhile(server: Server, num_users: int, work: Callable[[], Awaitable[Any]]) -> Asked:
    """One person searches and another one chats, with a breath in between, until `work` is done."""
    asked = Asked({"search": [], "chat": []}, [])
    async with _client(server, 2) as client:
        asking = [asyncio.create_task(_ask(client, asked, what, num_users)) for what in asked.times]
        try:
            await work()
        finally:
            for task in asking:
                task.cancel()
            for task in asking:
                with suppress(asyncio.CancelledError):
                    await task
    return asked


async def _ask(client: httpx.AsyncClient, asked: Asked, what: str, num_users: int) -> None:
    rng = random.Random(what)
    while True:
        user, query = f"asker{rng.randrange(num_users)}", question(rng)
        body: dict[str, object]
        if what == "search":
            route, body = "/v1/memory/search", {"user_id": user, "query": query}
        else:
            memory = {"user_id": user, "write": False}  # or the drain would wait for the chat's own session
            route, body = "/v1/chat/completions", {"messages": [{"role": "user", "content": query}], "memory": memory}
        started = time.perf_counter()
        answer = await client.post(route, json=body)
        elapsed = (time.perf_counter() - started) * 1000
        if answer.status_code == 200:
            asked.times[what].append(elapsed)
        else:
            asked.errors.append(f"{what}: {answer.status_code}: {answer.text[:200]}")
        await asyncio.sleep(0.02)


def _client(server: Server, num_connections: int) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=num_connections, max_keepalive_connections=num_connections)
    return httpx.AsyncClient(base_url=server.url, limits=limits, timeout=120, trust_env=False)


def _settings(args: argparse.Namespace) -> Sequence[str]:
    return (*(STUB_SETTINGS if args.stub else ()), *args.set)


def _case(args: argparse.Namespace) -> dict[str, object]:
    case: dict[str, object] = {name: getattr(args, name) for name in ("messages", "users", "connections")}
    case["models"] = "stub" if args.stub else "packaged MiniLM"
    return case | ({"set": args.set} if args.set else {})


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, say what missed its goal."""
    parser = parser_of(__doc__)
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--max-seconds", type=float, default=1200.0, help="give up after this long")
    parser.add_argument("--idle-seconds", type=float, default=15.0, help="how long --mixed asks an idle server")
    parser.add_argument("--mixed", action="store_true", help="searches and chats meanwhile")
    parser.add_argument("--set", metavar="OPTION=VALUE", action="append", default=[], help="an option of the engine")
    parser.add_argument("--stub", action="store_true", help="encoders without weights: a smoke test, no measurement")
    args = parser.parse_args(argv)
    table = table_of("ingest_mixed" if args.mixed else "ingest", args)
    problems = (measure_mixed if args.mixed else measure_ingest)(args, table)
    for problem in problems:
        print(f"bench_ingest: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())

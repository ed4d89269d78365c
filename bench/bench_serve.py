"""What memory costs a vLLM server: requests, tokens and latencies of vLLM alone, and with memory off, on, and asleep.

    python -m bench.bench_serve [--dry]                                          # CPU, the packaged model
    lightmem-engine bench serve --model Qwen/Qwen3-8B -- --load-format dummy     # CUDA; vLLM's options behind --

Each server starts once. `alone` is vLLM without us; `off` sends chats that name nobody to vLLM with memory, `on` gives
every client a user of its own, `on + sleep` also lets memory consolidate what other users have told, all the time; it
lasts --asleep seconds at least, for beside chats that never pause a call of sleep's waits for half a minute.
Clients ask one question after another, with prompts that nobody has sent before; the first chats of each are not timed.
It ends within --limit seconds: what is left of them is shared among the measurements that remain, and each stops asking
when its share is used up. A server that does not start costs its own rows, not those of the other one; the exit code
is then 1, and its log is where --logs says.

Rows in bench/results/serve.csv, by number of clients: requests and tokens per second, milliseconds to the first token
and between tokens, what recall says it took and how often it was cut short, runs, calls and tokens of sleep that ended,
CPU seconds of the server's processes per request, and how busy the GPU was. The same as a picture in
bench/results/serve.svg, or where --plot says, and as a table, last of all that is printed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import httpx
import numpy as np

from bench.harness import RESULTS, Table
from bench.serve_nights import Nights
from bench.serve_page import MODES, plot, printed
from bench.vllm_load import Chat, Server, Shape, kept
from tests.support.vllm_server import FAST, MODEL, VllmServer

START_SECONDS = 1800.0  # large models are read, compiled and captured
RESERVE = 240.0  # seconds for the start of a server yet to come
SETTINGS = ("extract.mode=extractive", "sleep.mode=llm")


class Clock:
    """What is left of the time."""

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def left(self) -> float:
        """Seconds; 0 when there are none."""
        return max(0.0, self._ends - time.monotonic())


async def measure(
    url: str, mode: str, clients: int, args: argparse.Namespace, pid: int, table: Table, nights: Nights
) -> None:
    """One mode with so many clients. args.seconds: after which no chat is begun; twice that ends those under way.

    Raises `httpx.HTTPError` if the server fails a chat, `TimeoutError` if none ended in time.
    """
    case = {"model": args.model or "lightmem-micro-qwen", "memory": mode, "clients": clients, "prompt": args.prompt}
    found: list[Chat] = []
    is_asleep = mode == "on + sleep"
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http:
        server = Server(http, url, MODEL, "", Shape(prompt=args.prompt, answer=args.answer))

        async def client(number: int, left: Iterator[int], kept: list[Chat]) -> None:
            random_ = random.Random(f"{mode} {clients} {number} {kept is found}")
            user = f"{mode} {clients} {number}" if mode.startswith("on") else None
            for _ in left:
                kept.append(await server.chat(random_, nullcontext(), user))
                if time.monotonic() > stop:
                    return

        async def all_clients(left: Iterator[int], kept: list[Chat]) -> None:
            await asyncio.gather(*(client(number, left, kept) for number in range(clients)))

        await server.calibrate()
        stop = time.monotonic() + args.seconds
        async with nights.asleep(http) if is_asleep else nullcontext():
            percents: list[float] = []
            watching = asyncio.create_task(_gpu_busy(percents))
            try:
                async with asyncio.timeout(2 * args.seconds) as limit:
                    await all_clients(iter(range(max(clients, min(args.chats, args.warm * clients)))), [])
                    slept = await nights.slept(http) if is_asleep else None
                    before, started = cpu_seconds(pid), time.perf_counter()
                    percents.clear()
                    await all_clients(asked(max(clients, args.chats), args.asleep if is_asleep else 0.0), found)
            except TimeoutError:
                if not (found and limit.expired()):
                    raise
            seconds = time.perf_counter() - started
            cpu = cpu_seconds(pid) - before
            watching.cancel()
            await asyncio.wait({watching})
            done = (await nights.slept(http)).since(slept) if slept is not None else {}
    _rows(table, case, found, seconds)
    table.value(case, "CPU per chat", "s", cpu / len(found))
    for name, number in done.items():
        table.value(case, f"{name} of sleep", "1/s", number / seconds)
    if percents:
        table.value(case, "GPU busy", "%", float(np.mean(percents)))


def _rows(table: Table, case: dict[str, object], found: Sequence[Chat], seconds: float) -> None:
    table.value(case, "chats", "1/s", len(found) / seconds)
    table.value(case, "tokens written", "1/s", sum(chat.tokens for chat in found) / seconds)
    table.spread(case, "first token", "ms", [chat.ttft * 1000 for chat in found])
    table.spread(case, "between tokens", "ms", [step * 1000 for chat in found for step in chat.steps])
    told = [chat.memory for chat in found if chat.memory is not None]
    if told:
        table.spread(case, "recall", "ms", [float(memory["read_ms"]) for memory in told])
        table.value(case, "recall cut short", "share", sum(bool(memory["degraded"]) for memory in told) / len(told))
        table.value(case, "stored", "share", sum(bool(memory["stored"]) for memory in told) / len(told))


def asked(chats: int, seconds: float) -> Iterator[int]:
    """Numbers of chats: so many at least, and on until so many seconds are over."""
    ends = time.monotonic() + seconds
    for number in itertools.count():
        if number >= chats and time.monotonic() >= ends:
            return
        yield number


def cpu_seconds(root: int) -> float:
    """CPU time of a process and all that descend from it and live; 0 where there is no /proc."""
    parents, times = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = stat.read_text("utf-8", "replace").rsplit(")", 1)[1].split()
            parents[int(stat.parent.name)] = int(words[1])
            times[int(stat.parent.name)] = int(words[11]) + int(words[12])
    family, grew = {root}, True
    while grew:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        grew = bool(children)
        family |= children
    return sum(times.get(pid, 0) for pid in family) / os.sysconf("SC_CLK_TCK")


async def _gpu_busy(found: list[float]) -> None:
    """Note the first GPU's utilisation until cancelled; nothing without one."""
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    while shutil.which(query[0]) is not None:
        await asyncio.sleep(0.5)
        done = await asyncio.to_thread(subprocess.run, query, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found.append(float(done.stdout.split()[0]))


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="", help="a checkpoint; without it the packaged one, with options for CPU")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--chats", type=int, default=200, help="per mode and number of clients")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt, about")
    parser.add_argument("--answer", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--asleep", type=float, default=75.0, help="seconds of `on + sleep`, at least")
    parser.add_argument("--nights", type=int, default=8, help="users whose night is prepared, per number of clients")
    parser.add_argument("--warm", type=int, default=2, help="chats of each client that are not timed")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--limit", type=float, default=7200.0, help="seconds within which everything ends, about")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="of the memory's, any")
    parser.add_argument("--plot", type=Path, help="where the picture goes; --dry draws none without it")
    parser.add_argument("--logs", type=Path, help="a folder for the servers' logs; without it they are not kept")
    parser.add_argument("--dry", action="store_true", help="keep no rows")
    args = parser.parse_args(own)
    table = Table("serve", None) if args.dry else Table("serve")
    clock = Clock(args.limit)
    failed = False
    servers = [[mode for mode in args.modes if (mode == "alone") == is_plain] for is_plain in (True, False)]
    for place, modes in enumerate(servers):
        if modes:
            to_come = sum(len(later) for later in servers[place + 1 :]) * len(args.clients)
            failed |= not _served(modes, options, args, clock, to_come, table)
    path = args.plot or (None if args.dry else RESULTS / "serve.svg")
    if path is not None and table.rows:
        plot(table, path, args.model)
    print(printed(table.rows))
    return int(failed)


def _served(
    modes: Sequence[str], options: Sequence[str], args: argparse.Namespace, clock: Clock, to_come: int, table: Table
) -> bool:
    """All measurements of one server; whether none failed. to_come: measurements of servers after this one."""
    is_plain = modes == ["alone"]
    with tempfile.TemporaryDirectory() as directory:
        made = VllmServer(
            Path(directory),
            *(() if args.model else FAST),
            *options,
            settings=(*SETTINGS, *args.set),
            is_plain=is_plain,
            model=args.model,
            start_seconds=min(START_SECONDS, clock.left()),
            env=kept(args.model),
        )
        try:
            with made as server:
                return _measured(server, modes, args, clock, to_come, table)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            print(f"{'vLLM alone' if is_plain else 'vLLM with memory'}: {error}", file=sys.stderr)
            return False
        finally:
            if args.logs is not None:
                args.logs.mkdir(parents=True, exist_ok=True)
                shutil.copy(made.log, args.logs / ("alone.log" if is_plain else "memory.log"))


def _measured(
    server: VllmServer, modes: Sequence[str], args: argparse.Namespace, clock: Clock, to_come: int, table: Table
) -> bool:
    works = True
    nights = Nights(server.url)
    if "on + sleep" in modes:
        try:
            asyncio.run(nights.prepare(args.nights * len(args.clients)))
        except httpx.HTTPError as error:
            print(f"nobody's night could be prepared: {error!r}", file=sys.stderr)
            return False
    left = len(modes) * len(args.clients) + to_come
    for clients in args.clients:
        for mode in modes:
            args.seconds = max(1.0, (clock.left() - (RESERVE if to_come else 0)) / left)
            left -= 1
            try:
                asyncio.run(measure(server.url, mode, clients, args, server.process.pid, table, nights))
            except (httpx.HTTPError, TimeoutError) as error:
                print(f"{mode}, {clients} clients: {error!r}", file=sys.stderr)
                works = False
    return works


if __name__ == "__main__":
    sys.exit(main())

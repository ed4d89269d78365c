"""What the memory's encoders cost those who chat with a vLLM on the same device, with and without standing aside.

    python -m bench.bench_encoders [--chats 120] [--clients 2] [--dry]

vLLM on CPU with the packaged model and the real MiniLM in the owner, whose encoders first do not stand aside for chats
and then, started anew, do (`device.shared`, as inside vLLM by itself). Each time a few clients chat with memory, with a
pause after every answer, first alone, then while many other users' messages come in. Rows in
bench/results/encoders.csv: times to the first token and between tokens; their ratio to the chats alone, median and p99;
tokens that the encoders read per second meanwhile, and after the last chat, when nobody waits.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import httpx
import numpy as np

from bench.bench_interference import itl_p99, ttft_p99
from bench.dialogues import sayings
from bench.harness import Table, parser_of, table_of
from bench.vllm_load import Arm, Chat, Server, Shape
from tests.support.vllm_server import FAST, MODEL, START_SECONDS, VllmServer

SETTINGS = ("extract.mode=extractive", "sleep.mode=rules", "short_term.idle_seconds=5")
AT_ONCE, PAUSE_SECONDS = 40, 0.5  # messages that come in, and how often
IDLE_SECONDS = 5.0


def ttft_p50(chats: Sequence[Chat]) -> float:
    """Seconds to the first token."""
    return float(np.median([chat.ttft for chat in chats]))


def itl_p50(chats: Sequence[Chat]) -> float:
    """Seconds between tokens."""
    return float(np.median(np.concatenate([chat.steps for chat in chats])))


FIGURES = {
    "p50 first token": ttft_p50,
    "p99 first token": ttft_p99,
    "p50 between tokens": itl_p50,
    "p99 between tokens": itl_p99,
}


async def measure(url: str, args: argparse.Namespace, table: Table, case: dict[str, object]) -> None:
    """Chats alone, then beside what comes in, then what comes in alone."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(timeout=600, limits=limits) as http:
        server = Server(http, url, MODEL, "", Shape(prompt=args.prompt))
        await server.calibrate()
        await _chats(server, args, 4, 0)  # warm
        alone = await _chats(server, args, args.chats, 1)
        before, started = await _read(http, url), time.perf_counter()
        async with _coming_in(http, url):
            beside = await _chats(server, args, args.chats, 2)
            between, after = await _read(http, url), time.perf_counter()
            await asyncio.sleep(IDLE_SECONDS)
        idle = (await _read(http, url) - between) / (time.perf_counter() - after)
    for name, arm in (("alone", alone), ("messages come in", beside)):
        of = {**case, "meanwhile": name}
        table.spread(of, "first token", "ms", [chat.ttft * 1000 for chat in arm.chats])
        table.spread(of, "between tokens", "ms", [step * 1000 for chat in arm.chats for step in chat.steps])
    for name, figure in FIGURES.items():
        table.value(case, f"{name}, times alone", "ratio", figure(beside.chats) / figure(alone.chats))
    table.value(case, "time with a chat under way", "share", beside.busy / beside.seconds)
    table.value(case, "encoders, beside chats", "tokens/s", (between - before) / (after - started))
    table.value(case, "encoders, without chats", "tokens/s", idle)


async def _chats(server: Server, args: argparse.Namespace, count: int, seed: int) -> Arm:
    """Not an open loop: on a machine that others use too it would measure its own queue."""
    left, arm = iter(range(count)), Arm()

    async def client(number: int) -> None:
        random_ = random.Random(f"{seed} {number}")
        for _ in left:
            arm.chats.append(await server.chat(random_, nullcontext(), f"chatter {seed} {number}"))
            await asyncio.sleep(random_.expovariate(1 / args.pause))

    busy, started = server.busy, time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(args.clients)))
    arm.seconds, arm.busy = time.perf_counter() - started, server.busy - busy
    return arm


@asynccontextmanager
async def _coming_in(http: httpx.AsyncClient, url: str) -> AsyncIterator[None]:
    """Messages of many users while the context lasts."""
    task = asyncio.create_task(_add(http, url))
    try:
        await asyncio.sleep(2 * PAUSE_SECONDS)
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait({task})


async def _add(http: httpx.AsyncClient, url: str) -> None:
    coming = sayings(100_000, 500)
    while True:
        for saying in itertools.islice(coming, AT_ONCE):
            (await http.post(f"{url}/v1/memory/add", json=saying.body())).raise_for_status()
        await asyncio.sleep(PAUSE_SECONDS)


async def _read(http: httpx.AsyncClient, url: str) -> float:
    """Tokens that the encoders have read since the start."""
    lanes = (await http.get(f"{url}/v1/memory/stats")).raise_for_status().json()["device"]
    return float(sum(lane["tokens"] for lane in lanes.values()))


def anew(server: VllmServer) -> None:
    """Have the owner started again, with the options as they are now."""
    before = server.owner()
    os.kill(before, signal.SIGTERM)
    deadline = time.monotonic() + START_SECONDS
    while server.owner() == before or httpx.get(f"{server.url}/health/ready", timeout=30).status_code != 200:
        if time.monotonic() > deadline:
            raise RuntimeError("the owner does not come back")
        time.sleep(0.2)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--chats", type=int, default=120, help="per arm")
    parser.add_argument("--clients", type=int, default=2)
    parser.add_argument("--pause", type=float, default=0.5, help="seconds after an answer, on average")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt, about")
    args = parser.parse_args(argv)
    table = table_of("encoders", args)
    with tempfile.TemporaryDirectory() as directory:
        options = Path(directory) / "memory.toml"
        options.write_text("[device]\nshared = false\n", "utf-8")
        with VllmServer(Path(directory), *FAST, "--memory-config", str(options), settings=SETTINGS) as server:
            for shared in (False, True):
                if shared:
                    options.write_text("[device]\nshared = true\n", "utf-8")
                    anew(server)
                case: dict[str, object] = {"stand aside": shared, "clients": args.clients, "prompt": args.prompt}
                asyncio.run(measure(server.url, args, table, case))
    return 0


if __name__ == "__main__":
    sys.exit(main())

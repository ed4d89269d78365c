"""What the memory's encoders cost those who chat with a vLLM on the same device, with and without standing aside.

    python -m bench.bench_encoders [--chats 60] [--rate 3] [--dry]

Two servers one after the other, vLLM on CPU with the packaged model and the real MiniLM in the owner: one whose
encoders stand aside for chats (`device.shared`, as inside vLLM by itself), one whose do not. In each, chats with memory
arrive at random, first alone, then while many other users' messages come in. Rows in bench/results/encoders.csv: times
to the first token and between tokens; their ratio to the chats alone, median and p99; tokens that the encoders read per
second meanwhile, and after the last chat, when nobody waits.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import numpy as np

from bench.bench_interference import itl_p99, ttft_p99
from bench.dialogues import sayings
from bench.harness import Table
from bench.vllm_load import Arm, Chat, Server, Shape, open_loop
from tests.support.vllm_server import FAST, MODEL, VllmServer

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
        await _chats(server, 4, args.rate, 0)  # warm
        alone = await _chats(server, args.chats, args.rate, 1)
        before, started = await _read(http, url), time.perf_counter()
        async with _coming_in(http, url):
            beside = await _chats(server, args.chats, args.rate, 2)
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


async def _chats(server: Server, count: int, rate: float, seed: int) -> Arm:
    return await open_loop(server, rate, count, seed, user=f"chatter {seed}")


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


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--chats", type=int, default=60, help="per arm")
    parser.add_argument("--rate", type=float, default=3.0, help="chats per second")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of a prompt, about")
    parser.add_argument("--dry", action="store_true", help="keep no rows")
    args = parser.parse_args(argv)
    table = Table("encoders", None) if args.dry else Table("encoders")
    for shared in ("false", "true"):
        case: dict[str, object] = {"stand aside": shared == "true", "rate": args.rate, "prompt": args.prompt}
        with tempfile.TemporaryDirectory() as directory:
            settings = (*SETTINGS, f"device.shared={shared}")
            with VllmServer(Path(directory), *FAST, settings=settings) as server:
                asyncio.run(measure(server.url, args, table, case))
    return 0


if __name__ == "__main__":
    sys.exit(main())

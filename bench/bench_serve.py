"""What memory costs a vLLM server: requests, tokens and latencies of vLLM alone, and with memory off, on, and asleep.

    python -m bench.bench_serve [--dry]                                          # CPU, the packaged model
    lightmem-engine bench serve --model Qwen/Qwen3-8B -- --load-format dummy     # CUDA; vLLM's options behind --

Each server starts once. `alone` is vLLM without us; `off` sends chats that name nobody to vLLM with memory, `on` gives
every client a user of its own, `on + sleep` also tells other users facts and lets memory consolidate them all the time.
Clients ask one question after another, with prompts that nobody has sent before. Rows in bench/results/serve.csv, by
number of clients: requests and tokens per second, milliseconds to the first token and between tokens, CPU seconds of
the server's processes per request, and how busy the GPU was; the same as a picture in bench/results/serve.svg, or where
--plot says.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import httpx
import numpy as np

from bench.bench_prefix import CITIES, PEOPLE
from bench.chart import Panel, svg
from bench.harness import RESULTS, Row, Table, cpu_model, gpu_name
from bench.vllm_load import Chat, Server, Shape
from tests.support.vllm_server import FAST, MODEL, VllmServer

MODES = ("alone", "off", "on", "on + sleep")
START_SECONDS = 1800.0  # large models are read, compiled and captured
SETTINGS = ("extract.mode=extractive", "sleep.mode=llm")


async def measure(url: str, mode: str, clients: int, args: argparse.Namespace, pid: int, table: Table) -> None:
    """One mode with so many clients."""
    case = {"model": args.model or "lightmem-micro-qwen", "memory": mode, "clients": clients, "prompt": args.prompt}
    found: list[Chat] = []
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=None)) as http:
        server = Server(http, url, MODEL, "", Shape(prompt=args.prompt, answer=args.answer))
        left = iter(range(max(args.chats, clients)))

        async def client(number: int) -> None:
            random_ = random.Random(f"{mode} {clients} {number}")
            user = f"{mode} {clients} {number}" if mode.startswith("on") else None
            for _ in left:
                found.append(await server.chat(random_, nullcontext(), user))

        asleep = _asleep(http, url) if mode == "on + sleep" else nullcontext()
        async with asleep:
            before, started = cpu_seconds(pid), time.perf_counter()
            percents: list[float] = []
            watching = asyncio.create_task(_gpu_busy(percents))
            await asyncio.gather(*(client(number) for number in range(clients)))
            seconds = time.perf_counter() - started
            cpu = cpu_seconds(pid) - before
            watching.cancel()
            await asyncio.wait({watching})
    table.value(case, "chats", "1/s", len(found) / seconds)
    table.value(case, "tokens written", "1/s", sum(len(chat.steps) + 1 for chat in found) / seconds)
    table.spread(case, "first token", "ms", [chat.ttft * 1000 for chat in found])
    table.spread(case, "between tokens", "ms", [step * 1000 for chat in found for step in chat.steps])
    table.value(case, "CPU per chat", "s", cpu / len(found))
    if percents:
        table.value(case, "GPU busy", "%", float(np.mean(percents)))


@asynccontextmanager
async def _asleep(http: httpx.AsyncClient, url: str) -> AsyncIterator[None]:
    """Facts about other users come in and are consolidated while the context lasts."""
    task = asyncio.create_task(_nights(http, url))
    try:
        yield
    finally:
        if task.done():
            task.result()
        task.cancel()
        await asyncio.wait({task})


async def _nights(http: httpx.AsyncClient, url: str) -> None:
    night = 0
    while True:
        night += 1
        user = f"sleeper {os.getpid()} {night}"
        facts = [f"My {person} moved to {CITIES[(place + night) % 10]}." for place, person in enumerate(PEOPLE)]
        facts += [
            f"My {person} lives in {CITIES[(place + night + 3) % 10]} now." for place, person in enumerate(PEOPLE)
        ]
        body = {"user_id": user, "messages": [{"role": "user", "content": fact} for fact in facts], "wait": True}
        (await http.post(f"{url}/v1/memory/add", json=body)).raise_for_status()
        (await http.post(f"{url}/v1/memory/sleep", json={"user_id": user, "wait": True})).raise_for_status()


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


def panels(rows: Sequence[Row]) -> list[Panel]:
    """One panel per figure: groups are numbers of clients, bars are modes."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows:
        case = json.loads(str(row["case"]))
        for name in ("value", "p50", "p99"):
            if name in row:
                title = f"{row['metric']}{'' if name == 'value' else f', {name}'} [{row['unit']}]"
                clients = f"{case['clients']} clients"
                found.setdefault(title, {}).setdefault(clients, {})[case["memory"]] = float(str(row[name]))
    return [Panel(title, bars) for title, bars in found.items()]


def plot(table: Table, path: Path, model: str) -> None:
    """The rows as a picture."""
    heading = f"{model or 'packaged model'} on {gpu_name() or cpu_model()}: vLLM alone, and with memory"
    path.write_text(svg(heading, panels(table.rows), MODES), "utf-8")
    print(f"the picture is {path}")


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
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--plot", type=Path, help="where the picture goes; --dry draws none without it")
    parser.add_argument("--dry", action="store_true", help="keep no rows")
    args = parser.parse_args(own)
    table = Table("serve", None) if args.dry else Table("serve")
    fast = () if args.model else FAST
    for is_plain in (True, False):
        modes = [mode for mode in args.modes if (mode == "alone") == is_plain]
        if not modes:
            continue
        with tempfile.TemporaryDirectory() as directory:
            made = VllmServer(
                Path(directory),
                *fast,
                *options,
                settings=SETTINGS,
                is_plain=is_plain,
                model=args.model,
                start_seconds=START_SECONDS,
            )
            with made as server:
                for clients in args.clients:
                    for mode in modes:
                        asyncio.run(measure(server.url, mode, clients, args, server.process.pid, table))
    path = args.plot or (None if args.dry else RESULTS / "serve.svg")
    if path is not None:
        plot(table, path, args.model)
    return 0


if __name__ == "__main__":
    sys.exit(main())

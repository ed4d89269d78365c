"""What background work costs the people who chat: the same load alone, with admission, and without it.

    python -m bench.bench_interference [--chats 500] [--seeds 5] [--dry]
    python -m bench.bench_interference --url http://127.0.0.1:8000 --model Qwen/Qwen3-8B   # a server that runs

A server of its own is vLLM without memory, with the scheduler that our launcher would give it (--background). One that
runs must take `priority` from this bench, as plain vLLM with --scheduling-policy priority does, and then --background
cancel is what can be measured.

First the server's saturation (closed loop) and the rate of background calls alone; then, seed by seed, all arms one
after another in changing order: chats arriving at half of saturation; the same with background calls through admission;
the same with background calls that nobody holds back and that rank like chats. Rows in bench/results/interference.csv:
times to the first token and between tokens, pooled over seeds; the ratio of their p99 to the chats alone, with a
bootstrap interval over chats; one step of the model; the background's share of the idle capacity: of its rate alone,
times the share of time without a chat. Calls that were cancelled do not count.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from pathlib import Path

import httpx
import numpy as np

from bench.harness import Table
from bench.vllm_load import Arm, Chat, Server, Shape, closed_loop, open_loop
from lightmem_engine.models.server_load import CALM_SECONDS, INTERVAL_SECONDS, LoadWatch
from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.flag import NAME, ForegroundFlag
from lightmem_engine.runtime.policy import Policy
from lightmem_engine.vllm_plugin.launcher import SCHEDULERS
from lightmem_engine.vllm_plugin.settings import PluginSettings
from tests.support.vllm_server import FAST, MODEL, VllmServer

ARMS = ("alone", "with admission", "without admission")
Figure = Callable[[Sequence[Chat]], float]


def ttft_p99(chats: Sequence[Chat]) -> float:
    """Seconds to the first token."""
    return float(np.percentile([chat.ttft for chat in chats], 99))


def itl_p99(chats: Sequence[Chat]) -> float:
    """Seconds between tokens."""
    return float(np.percentile(np.concatenate([chat.steps for chat in chats]), 99))


def ratio(figure: Figure, arm: Sequence[Chat], alone: Sequence[Chat], draws: int = 400) -> tuple[float, float, float]:
    """The ratio of a figure, and the interval that holds 95 % of its bootstrap draws over whole chats."""
    rng = np.random.default_rng(1)

    def drawn(chats: Sequence[Chat]) -> list[Chat]:
        return [chats[i] for i in rng.integers(0, len(chats), len(chats))]

    found = [figure(drawn(arm)) / figure(drawn(alone)) for _ in range(draws)]
    low, high = np.percentile(found, (2.5, 97.5))
    return figure(arm) / figure(alone), float(low), float(high)


async def run(server: Server, args: argparse.Namespace, table: Table) -> None:
    """All arms, all rows."""
    case: dict[str, object] = {
        "model": args.model,
        "background": args.background,
        "prompt": args.prompt,
        "chats": args.chats,
        "seeds": args.seeds,
    }
    await closed_loop(server, args.clients, args.clients, 0)  # warm
    saturation = await closed_loop(server, args.clients, args.warm_chats, 1)
    rate = 0.5 * saturation
    table.value(case, "saturation", "chats/s", saturation)
    only = Arm()
    async with _admission(args) as admission, server.background(args.workers, only, admission, 0):
        await asyncio.sleep(args.alone_seconds)
    idle = only.background / args.alone_seconds
    table.value(case, "background alone", "tokens/s", idle)
    arms = {name: Arm() for name in ARMS}
    for seed in range(args.seeds):
        order = list(ARMS)
        random.Random(seed).shuffle(order)
        for name in order:
            arms[name].add(await _one(server, args, name, rate, seed))
    _rows(table, case, arms, idle)


async def _one(server: Server, args: argparse.Namespace, name: str, rate: float, seed: int) -> Arm:
    per_seed = max(1, args.chats // args.seeds)
    if name == "alone":
        return await open_loop(server, rate, per_seed, seed)
    beside = Arm()
    admitted: AbstractAsyncContextManager[Admission | None] = nullcontext()
    if name == "with admission":
        admitted = _admission(args)
    async with admitted as admission, server.background(args.workers, beside, admission, seed):
        arm = await open_loop(server, rate, per_seed, seed, admission=admission)
        arm.background = beside.background
    return arm


@asynccontextmanager
async def _admission(args: argparse.Namespace) -> AsyncIterator[Admission]:
    """As the owner has it, with its look at the server's load, which is part of what background work costs."""
    pauses = args.background == "pause"
    policy = Policy(args.workers, preempts=True, pauses=pauses)
    admission = Admission(policy, None if args.flag is None else args.flag.set)
    interval = CALM_SECONDS if pauses else INTERVAL_SECONDS

    def is_wanted() -> bool:
        return bool(admission.num_waiting or admission.num_background)

    watch = LoadWatch(args.url, admission.heard, is_wanted, api_key=args.key, interval=interval)
    watch.start()
    try:
        yield admission
    finally:
        watch.stop()


def _options(args: argparse.Namespace) -> list[str]:
    """What our launcher would set, on a vLLM without it: here the clients name their own class."""
    options = [*FAST, "--scheduling-policy", "priority"]
    if args.background == "pause":
        options += ["--scheduler-cls", f"{SCHEDULERS}.PausingScheduler"]
    return options


def _rows(table: Table, case: dict[str, object], arms: dict[str, Arm], idle: float) -> None:
    alone = arms["alone"]
    step = float(np.median(np.concatenate([chat.steps for chat in alone.chats])))
    table.value(case, "one step", "ms", step * 1000)
    for name, arm in arms.items():
        of = {**case, "arm": name}
        table.spread(of, "first token", "ms", [chat.ttft * 1000 for chat in arm.chats])
        table.spread(of, "between tokens", "ms", [gap * 1000 for chat in arm.chats for gap in chat.steps])
        table.value(of, "time with a chat under way", "share", arm.busy / arm.seconds)
        if name == "alone":
            continue
        for metric, figure in (("first token", ttft_p99), ("between tokens", itl_p99)):
            found, low, high = ratio(figure, arm.chats, alone.chats)
            table.value(of, f"p99 {metric}, times alone", "ratio", found)
            table.value(of, f"p99 {metric}, times alone, low", "ratio", low)
            table.value(of, f"p99 {metric}, times alone, high", "ratio", high)
            table.value(of, f"p99 {metric}, allowed", "ratio", max(1.1, 1 + step / figure(alone.chats)))
        free = 1 - arm.busy / arm.seconds
        if free * arm.seconds > 0.05:
            share = arm.background / arm.seconds / (idle * free)
            table.value(of, "background of idle capacity", "share", share)


async def _measure(args: argparse.Namespace, table: Table) -> None:
    headers = {"authorization": f"Bearer {args.key}"} if args.key else {}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=headers, timeout=300, limits=limits) as http:
        await run(Server(http, args.url, args.model, args.key, Shape(prompt=args.prompt)), args, table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs; without it vLLM is started on CPU with the packaged model")
    parser.add_argument("--model", default=MODEL, help="its name for the model")
    parser.add_argument("--background", choices=("pause", "cancel"), default="pause", help="as the server was started")
    parser.add_argument("--key", default="", help="its API key")
    parser.add_argument("--chats", type=int, default=500, help="per arm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8, help="of the closed loop")
    parser.add_argument("--warm-chats", type=int, default=48, help="of the closed loop")
    parser.add_argument("--workers", type=int, default=4, help="background calls at once")
    parser.add_argument("--prompt", type=int, default=600, help="tokens of a chat's prompt, about")
    parser.add_argument("--alone-seconds", type=float, default=20.0, help="of background work alone")
    parser.add_argument("--dry", action="store_true", help="keep no rows")
    parser.set_defaults(flag=None)
    args = parser.parse_args(argv)
    table = Table("interference", None) if args.dry else Table("interference")
    with ExitStack() as stack:
        if args.url is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            args.flag = stack.enter_context(ForegroundFlag(directory / NAME, is_writer=True))
            PluginSettings(str(directory / "engine.sock"), "").publish(os.environ)  # where the scheduler finds the flag
            args.url = stack.enter_context(VllmServer(directory, *_options(args), is_plain=True)).url
        asyncio.run(_measure(args, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What background work costs the people who chat: the same load alone, with admission, and without it.

    python -m bench.bench_interference [--chats 500] [--seeds 5] [--dry]
    python -m bench.bench_interference --url http://127.0.0.1:8000 --model Qwen/Qwen3-8B   # a server that runs

A server of its own is vLLM without memory, with the scheduler that our launcher would give it (--background), on CPU
with the packaged model, or anywhere with --checkpoint DIR and vLLM's options behind --. Where a server has far more
places than chats, half of what --clients 1 reach leaves it idle for half of the time. A server that runs already must
take `priority` from this bench, as plain vLLM with --scheduling-policy priority does, and then --background cancel is
what can be measured.

First the server's saturation (closed loop); then, seed by seed, all arms one after another, each as often first as the
others: chats arriving at half of saturation; the same with background calls through admission; the same with background
calls that nobody holds back and that rank like chats; and background calls without chats, through admission and not.
Chats are the same in every arm, at the same times, and no arm finds another's prompts in the prefix cache. Rows in
bench/results/interference.csv: times to the first token and between tokens, pooled over seeds; the ratio of their p99
to the chats alone, with a bootstrap interval over chats; one step of the model; the background's share of the idle
capacity: of its rate alone (the higher of the two), times the share of time without a chat. Calls count when they end,
and those that were cancelled not at all; they begin some seconds before the chats do, so that as many are under way at
the beginning of what is counted as at its end.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from pathlib import Path

import httpx
import numpy as np
import torch

from bench.harness import Table, gpu_name
from bench.vllm_load import Arm, Chat, Server, Shape, closed_loop, kept, open_loop
from lightmem_engine.models.server_load import CALM_SECONDS, INTERVAL_SECONDS, LoadWatch
from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.flag import NAME, ForegroundFlag
from lightmem_engine.runtime.policy import Policy
from lightmem_engine.vllm_plugin.launcher import SCHEDULERS
from lightmem_engine.vllm_plugin.settings import PluginSettings
from tests.support.vllm_server import FAST, MODEL, VllmServer

ARMS = ("alone", "with admission", "without admission")
IDLE = ("background alone", "background alone, without admission")
LEAD_SECONDS = 2.0
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
        "model": args.checkpoint or args.model,
        "background": args.background,
        "prompt": args.prompt,
        "chats": args.chats,
        "seeds": args.seeds,
    }
    await server.calibrate()
    await closed_loop(server, args.clients, args.clients, 0)  # warm
    saturation = await closed_loop(server, args.clients, args.warm_chats, 1)
    table.value(case, "saturation", "chats/s", saturation)
    arms = {name: Arm() for name in (*ARMS, *IDLE)}
    for seed in range(args.seeds):
        for name in turn(tuple(arms), seed):
            gc.collect()  # not while somebody is being timed: this process shares the server's cores
            arms[name].add(await _one(server, args, name, 0.5 * saturation, seed))
    _rows(table, case, arms)


def turn(names: Sequence[str], seed: int) -> list[str]:
    """The order of a seed: another one first each time, and every other time backwards from there."""
    step = -1 if seed % 2 else 1
    return [names[(seed + step * place) % len(names)] for place in range(len(names))]


async def _one(server: Server, args: argparse.Namespace, name: str, rate: float, seed: int) -> Arm:
    per_seed = max(1, args.chats // args.seeds)
    if name == "alone":
        return await open_loop(server, rate, per_seed, seed)
    beside = Arm()
    admitted: AbstractAsyncContextManager[Admission | None] = nullcontext()
    if "without" not in name:
        admitted = _admission(args)
    async with admitted as admission, server.background(args.workers, beside, admission, f"{name} {seed}"):
        await asyncio.sleep(LEAD_SECONDS)
        before = beside.background
        if name in IDLE:
            arm = Arm(seconds=args.alone_seconds / args.seeds)
            await asyncio.sleep(arm.seconds)
        else:
            arm = await open_loop(server, rate, per_seed, seed, admission=admission)
        arm.background = beside.background - before
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


def _options(args: argparse.Namespace, given: Sequence[str]) -> list[str]:
    """What our launcher would set, on a vLLM without it: here the clients name their own class."""
    options = [*(given if args.checkpoint else FAST), "--scheduling-policy", "priority"]
    if args.background == "pause":
        ahead = "Async" if torch.cuda.is_available() else ""
        options += ["--scheduler-cls", f"{SCHEDULERS}.Pausing{ahead}Scheduler"]
    return options


def _rows(table: Table, case: dict[str, object], arms: dict[str, Arm]) -> None:
    alone = arms["alone"]
    rates = {name: arms[name].background / arms[name].seconds for name in IDLE}
    for name, rate in rates.items():
        table.value(case, name, "tokens/s", rate)
    idle = max(rates.values())
    step = float(np.median(np.concatenate([chat.steps for chat in alone.chats])))
    table.value(case, "one step", "ms", step * 1000)
    for name in ARMS:
        arm = arms[name]
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
            allowed = 1.05 if gpu_name() else max(1.1, 1 + step / figure(alone.chats))
            table.value(of, f"p99 {metric}, allowed", "ratio", allowed)
        free = 1 - arm.busy / arm.seconds
        if free * arm.seconds > 0.05:
            share = arm.background / arm.seconds / (idle * free)
            table.value(of, "background of idle capacity", "share", share)


async def _measure(args: argparse.Namespace, table: Table) -> None:
    headers = {"authorization": f"Bearer {args.key}"} if args.key else {}
    gc.collect()
    gc.freeze()
    gc.disable()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(headers=headers, timeout=300, limits=limits) as http:
        await run(Server(http, args.url, args.model, args.key, Shape(prompt=args.prompt)), args, table)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, given = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a server that runs; without it vLLM is started on CPU with the packaged model")
    parser.add_argument("--model", default=MODEL, help="its name for the model")
    parser.add_argument("--checkpoint", default="", help="what the server of its own serves; vLLM's options behind --")
    parser.add_argument("--background", choices=("pause", "cancel"), default="pause", help="as the server was started")
    parser.add_argument("--key", default="", help="its API key")
    parser.add_argument("--chats", type=int, default=500, help="per arm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--clients", type=int, default=8, help="of the closed loop")
    parser.add_argument("--warm-chats", type=int, default=48, help="of the closed loop")
    parser.add_argument("--workers", type=int, default=4, help="background calls at once")
    parser.add_argument("--prompt", type=int, default=600, help="tokens of a chat's prompt, about")
    parser.add_argument("--alone-seconds", type=float, default=30.0, help="of background work alone, all seeds")
    parser.add_argument("--dry", action="store_true", help="keep no rows")
    parser.set_defaults(flag=None)
    args = parser.parse_args(own)
    table = Table("interference", None) if args.dry else Table("interference")
    with ExitStack() as stack:
        if args.url is None:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            args.flag = stack.enter_context(ForegroundFlag(directory / NAME, is_writer=True))
            PluginSettings(str(directory / "engine.sock"), "").publish(os.environ)  # where the scheduler finds the flag
            made = VllmServer(
                directory, *_options(args, given), is_plain=True, model=args.checkpoint, env=kept(args.checkpoint)
            )
            args.url = stack.enter_context(made).url
        asyncio.run(_measure(args, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())

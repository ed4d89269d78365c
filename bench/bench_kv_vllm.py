"""Kept KV caches in a real vLLM on this machine's CPU: time to the first token after a restart, loaded and computed.

    python -m bench.bench_kv_vllm [--shape 0.6b|tiny] [--tokens 512,1024] [--rounds 5]

As `bench_kv`, through the connector: the conversation is read once and kept, vLLM is killed and started again, and then
the next turn's prompt is answered by loading and, under another salt, by computing. What vLLM has in its own memory is
dropped before every answer. Rows in bench/results/kv.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.bench_kv import SHAPES, build, conversation
from bench.harness import Table
from lightmem_engine.client import EngineClient
from lightmem_engine.types import OpenTurn, Scope, TurnOptions
from tests.support.server import STUB_MODELS, Server
from tests.vllm_plugin.kept_vllm import KeptVllm

SETTINGS = (*STUB_MODELS, "kv.min_free_bytes=0", "block.max_tokens=0", "chat.top_k=0", "chat.budget_ms=60000")


async def opened(client: EngineClient, user: str, messages: Sequence[Any]) -> OpenTurn:
    """A turn of a user, with the salt and what its cache belongs to."""
    return await client.open_turn(Scope(user), list(messages), TurnOptions(session="s"))


def wait_kept(server: Server, count: int) -> None:
    """Until so many caches stand."""
    while httpx.get(f"{server.url}/v1/memory/kv", timeout=60).json()["manifests"] < count:
        time.sleep(0.05)


async def run(args: argparse.Namespace, table: Table, directory: Path) -> None:
    """Record all rows."""
    model = build(args.shape)
    lengths = [int(length) for length in args.tokens.split(",")]
    prompts = {length: conversation(model, length, "") for length in lengths}
    checkpoint, data, log = directory / "model", directory / "data", directory / "vllm.log"
    model._model.save_pretrained(checkpoint)
    model._tokenizer.save_pretrained(checkpoint)
    await model.aclose()
    del model
    with Server(data, SETTINGS) as server:
        client = EngineClient(data / "engine.sock")
        with KeptVllm(data, log, checkpoint, "bfloat16") as vllm:
            for number, length in enumerate(lengths, 1):
                turn = await opened(client, f"user{length}", prompts[length][0].messages)
                vllm.ask(turn.messages, turn.salt, turn.kv_params, max_tokens=1)
                wait_kept(server, number)
        with KeptVllm(data, log, checkpoint, "bfloat16") as vllm:
            for length in lengths:
                following = prompts[length][1].messages
                turn = await opened(client, f"user{length}", following)
                times: dict[str, list[float]] = {"computed": [], "loaded": []}
                cached = 0
                for round_ in range(args.rounds + 1):  # the first one warms up
                    for name in times:
                        salt = turn.salt if name == "loaded" else f"nobody {round_}"
                        found = vllm.ask(following, salt, {}, max_tokens=1, reset=True)
                        cached = found["cached"] if name == "loaded" else cached
                        if round_:
                            times[name].append(found["seconds"])
                case = {"engine": "vllm", "shape": args.shape, "tokens": length, "prompt": found["prompt"]}
                for name, seconds in times.items():
                    table.spread(case, f"time to first token, {name}", "ms", [one * 1000 for one in seconds])
                ratio = float(np.median(times["computed"])) / float(np.median(times["loaded"]))
                table.value(case, "computed over loaded, p50", "x", ratio)
                table.value(case, "tokens loaded", "", cached)
        await client.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="0.6b")
    parser.add_argument("--tokens", default="512,1024")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="keep no rows")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(args, Table("kv", None) if args.dry else Table("kv"), Path(directory)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Kept KV caches inside vLLM on a CPU: time to the first token, loaded from disk and computed.

    python -m bench.bench_kv_vllm [--shape 0.6b|tiny] [--tokens 1024,2048] [--rounds 5]

The same random Qwen3 as in bench_kv, in a real vLLM with the connector, beside the owner of a memory. A conversation of
so many tokens goes on with a short question: once under a salt of nobody, so that all is computed, once with vLLM's own
cache emptied, so that what is kept is loaded; both take turns. Needs vLLM. Rows in bench/results/kv.csv.
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
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.bench_kv import SHAPES
from bench.harness import Table, parser_of, table_of
from lightmem_engine.client import EngineClient
from lightmem_engine.types import Scope, TurnOptions
from tests.models import tiny_qwen
from tests.support.server import STUB_MODELS, Server
from tests.vllm_plugin.kept_vllm import KeptVllm

SETTINGS = (*STUB_MODELS, "kv.min_free_bytes=0", "chat.budget_ms=60000", "chat.top_k=0", "block.max_tokens=0")


def save(folder: Path, shape: str) -> Path:
    """A checkpoint of random weights, bfloat16."""
    words = tiny_qwen.tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPES[shape], max_position_embeddings=32_768, eos_token_id=words.eos_token_id)
    model: Any = Qwen3ForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


async def measure(
    vllm: KeptVllm, server: Server, data: Path, length: int, rounds: int, table: Table, case: Any
) -> None:
    """Loaded against computed at one length."""
    words = "".join(np.random.default_rng(length).choice(list("bcdfghjklmnpqrstvwxz"), length))
    said = [{"role": "user", "content": words}]
    client = EngineClient(data / "engine.sock")
    try:
        turn = await client.open_turn(Scope(f"user {length}"), said, TurnOptions(session="s"))
    finally:
        await client.aclose()
    first = vllm.ask(turn.messages, turn.salt, turn.kv_params, max_tokens=1)
    await asyncio.to_thread(wait_for_caches, server, first["prompt"])
    following = [*turn.messages, {"role": "assistant", "content": "Yes."}, {"role": "user", "content": "And?"}]
    times: dict[str, list[float]] = {"computed": [], "loaded": []}
    cached: list[float] = []
    for round_ in range(rounds):
        for name in ("computed", "loaded") if round_ % 2 else ("loaded", "computed"):
            salt = turn.salt if name == "loaded" else f"nobody {round_}"
            found = vllm.ask(following, salt, {}, max_tokens=1, reset=True)
            times[name].append(found["seconds"])
            if name == "loaded":
                cached.append(found["cached"])
            elif found["cached"]:
                raise RuntimeError("what was to be computed was cached")
    case = {**case, "tokens": first["prompt"], "prompt": found["prompt"]}
    for name, taken in times.items():
        table.spread(case, f"time to first token, {name}", "ms", [one * 1000 for one in taken])
    table.spread(case, "tokens not computed, loaded", "tokens", cached)
    table.value(
        case, "computed over loaded, p50", "x", float(np.median(times["computed"]) / np.median(times["loaded"]))
    )


def wait_for_caches(server: Server, num_tokens: int) -> None:
    """Until the blocks of a prompt are on disk."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = httpx.get(f"{server.url}/v1/memory/kv", timeout=30).json()
        if found["chunks"] >= num_tokens // 32:
            return
        time.sleep(0.1)
    raise RuntimeError(f"nothing was kept: {found}")


async def run(args: argparse.Namespace, table: Table) -> None:
    """Record all rows."""
    lengths = [int(length) for length in args.tokens.split(",")]
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        root = Path(directory)
        checkpoint = await asyncio.to_thread(save, root / "model", args.shape)
        for number, length in enumerate(lengths):
            data = root / f"data{number}"
            with Server(data, SETTINGS) as server:
                parts = (data, root / "vllm.log", checkpoint, "bfloat16", max(lengths) + 512)
                vllm = await asyncio.to_thread(KeptVllm, *parts)
                with vllm:
                    case = {"shape": args.shape, "engine": "vllm on cpu"}
                    await measure(vllm, server, data, length, args.rounds, table, case)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="0.6b")
    parser.add_argument("--tokens", default="1024,2048")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--directory", help="where the files lie; default: the system's temporary directory")
    args = parser.parse_args(argv)
    asyncio.run(run(args, table_of("kv", args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Kept KV caches of the model in this process: time to the first token, loaded and computed.

    python -m bench.bench_kv [--shape 0.6b|tiny] [--tokens 32,64,128,256,1024,2048] [--rounds 5] [--requests 50]
                              [--storage exact,int8,fp8]

A Qwen3 of random weights reads a conversation of so many tokens and 32 new ones behind it: once computing all of it,
once with the conversation's cache loaded from disk; both take turns, and where their time goes is in the table. The
cache is loaded whatever it costs, so the lengths at which that loses are in the table; `engine's choice` is what it
would have done. With `--storage`, caches kept in a byte a number stand beside exact ones; what that changes in the
answers is bench_kv_storage's to say. "cold" has the files dropped from the system's page cache first. Throttled: after
calibration the disk becomes three times slower than computing; what the requests take, by what computing takes. Rows in
bench/results/kv.csv.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from bench.harness import Table, parser_of, table_of
from bench.kv_split import shares, split
from lightmem_engine.kv.files import ChunkFiles
from lightmem_engine.kv.index import Bounds
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.models.chat_template import stable_length
from lightmem_engine.models.kv_storage import Kind
from lightmem_engine.models.kv_tier import KVTier, Offer
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.types import CacheOwner, Priority, Prompt, Sampling, Scope
from tests.models import tiny_qwen

SHAPES: dict[str, dict[str, int]] = {
    "0.6b": {
        "hidden_size": 1024,
        "intermediate_size": 3072,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 32,
        "vocab_size": 512,
    },
}
CHUNK = 256
SUFFIX = 32  # new tokens behind what is kept: the reply, the next question, the template around them
OWNER = CacheOwner(Scope("bench"), 1, 1)
SLOWER = 3.0  # than computing, the throttled disk


class Always(Rates):
    """Loads whatever it costs."""

    def pays(self, num_tokens: int, num_bytes: int) -> bool:
        """Yes."""
        return True

    def compute_seconds(self, num_tokens: int) -> float:
        """Long enough for any load."""
        return 1e6


class Binder:
    """Everything stands."""

    def __init__(self, store: KVStore) -> None:
        self._store = store

    async def stands(self, owner: CacheOwner) -> bool:
        """Yes."""
        return True

    async def bind(self, offer: Offer, fingerprint: bytes, num_tokens: int, num_bytes: int) -> bool:
        """Yes."""
        self._store.allow([offer.id])
        return True


def build(shape: str) -> QwenModel:
    """A model of random weights, bfloat16, without a cache in memory."""
    words = tiny_qwen.tokenizer()
    torch.manual_seed(0)
    config = Qwen3Config(**SHAPES[shape], max_position_embeddings=32_768, eos_token_id=words.eos_token_id)
    with torch.device("cpu"):
        model: Any = Qwen3ForCausalLM(config).to(torch.bfloat16)
    return QwenModel(model, words, name=f"qwen3-{shape}-random", cache_bytes=0)


def conversation(model: QwenModel, num_tokens: int, salt: str) -> tuple[Prompt, Prompt]:
    """A prompt of which exactly so many tokens are kept, and the next turn's: those, and `SUFFIX` new ones."""
    rng = np.random.default_rng(num_tokens)
    words = "".join(rng.choice(list("bcdfghjklmnpqrstvwxz"), 4 * (num_tokens + SUFFIX)))

    def first(size: int) -> Prompt:
        return Prompt(({"role": "user", "content": words[:size]},), salt=salt, owner=OWNER)

    def kept_of(prompt: Prompt) -> int:
        return stable_length(model._tokenizer, prompt, model._encode(prompt))

    prompt = first(fitting(num_tokens, lambda size: kept_of(first(size))))

    def after(size: int) -> Prompt:
        question = {"role": "user", "content": words[:size]}
        return Prompt((*prompt.messages, {"role": "assistant", "content": "Yes."}, question), salt=salt)

    return prompt, after(fitting(num_tokens + SUFFIX, lambda size: model.count(after(size))))


def fitting(wanted: int, count: Callable[[int], int]) -> int:
    """The size at which there are so many tokens."""
    size = 1
    while (missing := wanted - count(size)) > 0:
        size += missing
    if missing < 0:
        raise ValueError(f"{wanted} tokens are too few for the template")
    return size


async def first_token(model: QwenModel, prompt: Prompt) -> float:
    """Seconds until the first token is there."""
    started = time.perf_counter()
    await model.generate([prompt], sampling=Sampling(max_tokens=1), priority=Priority.FOREGROUND)
    return time.perf_counter() - started


@asynccontextmanager
async def kept(model: QwenModel, root: Path, *, always: bool, kind: Kind = "exact") -> AsyncIterator[KVTier]:
    """The model keeps its caches under `root`, as the engine would have it, or loading always."""
    store = KVStore(root, Bounds(1 << 40))
    fingerprint, storage, rates = await asyncio.to_thread(model.describe_kv, store, CHUNK, kind)
    used = Always(rates.tokens, rates.bytes) if always else rates
    tier = KVTier(store, fingerprint, storage, used, chunk_tokens=CHUNK, min_tokens=1)
    tier.start(Binder(store))
    model.kept = tier
    try:
        yield tier
    finally:
        model.kept = None
        await tier.aclose()
        store.close()


async def keep(model: QwenModel, tier: KVTier, prompt: Prompt) -> None:
    """Have the prompt's cache on disk."""
    await first_token(model, prompt)
    await model._step(lambda: None, Priority.FOREGROUND)
    await tier.settle()


def drop_pages(root: Path) -> None:
    """Have the system forget the files, as after a restart of the machine."""
    for path in root.rglob("*.kv"):
        handle = os.open(path, os.O_RDONLY)
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(handle)


async def compare(
    model: QwenModel, root: Path, lengths: Sequence[int], rounds: int, table: Table, shape: str, kind: Kind
) -> None:
    """Loaded against computed, by length."""
    async with kept(model, root, always=True, kind=kind) as tier:
        choice = Rates(tier.rates.tokens, tier.rates.bytes)
        of = {"shape": shape} | ({} if kind == "exact" else {"storage": kind})
        table.value(of, "calibrated prefill", "tokens/s", choice.tokens)
        table.value(of, "calibrated load", "bytes/s", choice.bytes)
        for length in lengths:
            first, following = conversation(model, length, f"salt {length}")
            await keep(model, tier, first)
            times: dict[str, list[float]] = {"computed": [], "loaded": [], "loaded, cold": []}
            where: dict[tuple[str, str], list[float]] = {}
            for round_ in range(rounds):
                for name in np.random.default_rng(round_).permutation(list(times)):
                    model.kept = None if name == "computed" else tier
                    if name == "loaded, cold":
                        drop_pages(root)
                    with split() as parts:
                        took = await first_token(model, following)
                    times[str(name)].append(took)
                    for part, seconds in shares(parts, took).items():
                        where.setdefault((str(name), part), []).append(seconds)
            model.kept = tier
            case = {**of, "tokens": length, "prompt": model.count(following)}
            for name, found in times.items():
                table.spread(case, f"time to first token, {name}", "ms", [one * 1000 for one in found])
            for (name, part), found in where.items():
                if any(found):
                    table.spread(case, f"of that, {name}: {part}", "ms", [one * 1000 for one in found])
            computed = float(np.median(times["computed"]))
            for name in ("loaded", "loaded, cold"):
                table.value(case, f"computed over {name}, p50", "x", computed / float(np.median(times[name])))
            places = tier.places(model._encode(following)[:-1], following.salt)
            tokens, size = sum(one.take for one in places), sum(one.row.num_bytes for one in places)
            table.value(case, "bytes read", "bytes", size)
            table.value(case, "engine's choice: load", "yes = 1", float(choice.pays(tokens, size)))


async def throttled(model: QwenModel, root: Path, length: int, requests: int, table: Table, shape: str) -> None:
    """A disk that becomes slow after it was measured."""
    async with kept(model, root, always=True) as tier:
        first, following = conversation(model, length, "salt throttled")
        await keep(model, tier, first)
        tier.rates = Rates(tier.rates.tokens, tier.rates.bytes)  # from here on the engine decides
        model.kept = None
        computed = [await first_token(model, following) for _ in range(5)]
        model.kept = tier
        num_bytes = tier.store.index.used()
        pace = SLOWER * float(np.median(computed)) / num_bytes  # seconds a byte
        read = ChunkFiles._read_into

        def slow(self: ChunkFiles, handle: int, view: memoryview) -> int:
            part = view[: 1 << 20]
            time.sleep(len(part) * pace)
            return read(self, handle, part)

        ChunkFiles._read_into = slow  # type: ignore[method-assign]
        try:
            taken = []
            for number in range(requests):
                taken.append(await first_token(model, following))
                if number % 10 == 9:  # the machine's own drift hits both
                    model.kept = None
                    computed.append(await first_token(model, following))
                    model.kept = tier
        finally:
            ChunkFiles._read_into = read  # type: ignore[method-assign]
        case = {"shape": shape, "tokens": length, "disk": f"{SLOWER:g}x slower than computing", "requests": requests}
        base = float(np.median(computed))
        table.value(case, "time to first token over computing, p50", "x", float(np.median(taken)) / base)
        table.value(case, "time to first token over computing, worst", "x", max(taken) / base)
        table.value(case, "loads abandoned", "", tier.store.counters.get("deadline_misses", ""))
        table.value(case, "loads skipped", "", tier.store.counters.get("loads_skipped"))


async def run(args: argparse.Namespace, table: Table) -> None:
    """Record all rows."""
    model = build(args.shape)
    lengths = [int(length) for length in args.tokens.split(",")]
    try:
        for kind in args.storage.split(","):
            with tempfile.TemporaryDirectory(dir=args.directory) as directory:
                await compare(model, Path(directory) / "kv", lengths, args.rounds, table, args.shape, kind)
        with tempfile.TemporaryDirectory(dir=args.directory) as directory:
            await throttled(model, Path(directory) / "kv", args.throttled, args.requests, table, args.shape)
    finally:
        await model.aclose()


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="0.6b")
    parser.add_argument("--tokens", default="32,64,128,256,1024,2048")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=50, help="with the throttled disk")
    parser.add_argument("--throttled", type=int, default=512, help="tokens of the prompt there")
    parser.add_argument("--storage", default="exact", help="ways of keeping caches, as kv.storage has them")
    parser.add_argument("--directory", help="where the files lie; default: the system's temporary directory")
    args = parser.parse_args(argv)
    asyncio.run(run(args, table_of("kv", args)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

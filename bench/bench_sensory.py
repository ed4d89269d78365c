"""The sensory pass against the published pipeline and against its compressor alone, same weights, same text.

    python -m bench.bench_sensory [--device cuda] [--tokens 10 40 120 510] [--users 1 64] [--rounds 3] [--dry]

One message per user. Variants, in milliseconds per message:
    reference    each message compressed by the llmlingua package, then a second forward over what is left, with
                 `output_attentions` in the eager implementation, its maps averaged and summed in Python loops
    llmlingua    the first half of that alone
    window       one packed pass: word scores, attention between turns, text
    per_message  the package's text from packed batches, and a second packed pass for attention
    ..., bf16    the same with weights in bfloat16; the reference stays float32, as the package does
    ..., fp16    on a GPU instead of bf16, whose rounding moves more words across the threshold

The layers are mBERT's (12 of 768) with random weights and a small vocabulary, which costs no arithmetic. GPT-3.5 counts
are a cheap stand-in on all sides. The two sequential variants are timed on --sample messages: each is a call of its
own, so more of them cost as much each. Embedding is on no side. Rows in bench/results/sensory.csv: the variants, their
tokens a second, the ratio of the reference's median to each, what arithmetic alone would allow, how many words bfloat16
decides otherwise, and peak memory. Ratios can exceed that bound, because it counts operations, not how fast a library
does them. Exit code 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import os
import random
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForTokenClassification

from bench.harness import Table, interleaved, parser_of, table_of
from bench.published import Reference
from lightmem_engine.config_sensory import CompressConfig
from lightmem_engine.models.checkpoint import locate
from lightmem_engine.models.encoder import Encoder
from lightmem_engine.models.lingua_messages import MessageCompressor
from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.llmlingua import LlmLinguaClassifier
from lightmem_engine.sensory.memory import SensoryJob, SensoryMemory
from lightmem_engine.types import Scope, Turn, Vectors, Window
from tests.models import lingua_texts

RATE = 0.6
WIDTH, HEADS = 768, 12
GOALS = {  # on a CPU; (tokens, users at least, variant): times the reference
    (40, 64, "window"): 11.0,
    (40, 64, "window, bf16"): 20.0,
    (40, 64, "per_message"): 5.0,
    (510, 1, "window"): 1.4,
}
_NOW = datetime(2024, 1, 1, tzinfo=UTC)


def save_model(folder: Path, layers: int) -> Path:
    """mBERT's shape, random."""
    words = lingua_texts.tokenizer("bert")
    config = BertConfig(
        vocab_size=len(words) + 100,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_labels=2,
    )
    torch.manual_seed(0)
    target = folder / lingua_texts.FOLDERS["bert"]
    BertForTokenClassification(config).save_pretrained(target)
    words.save_pretrained(target)
    return target


def messages(count: Callable[[list[str]], list[int]], num_tokens: int, number: int) -> list[str]:
    """Texts of about so many tokens, none of more."""
    rng = random.Random(num_tokens)
    found = []
    for _ in range(number):
        words = " ".join(rng.choice(lingua_texts.ENGLISH) for _ in range(num_tokens // 8 + 2)).split()
        sizes = np.cumsum([count([word])[0] for word in words])
        found.append(" ".join(words[: max(1, int(np.searchsorted(sizes, num_tokens, side="right")))]))
    return found


def stage(encoder: Encoder, *, alone: bool) -> SensoryMemory:
    """The engine's sensory stage over an encoder, without an embedder."""
    classifier = LlmLinguaClassifier(encoder, score_words=not alone)
    compressor = MessageCompressor(encoder, lingua_texts.gpt_tokens, rate=RATE) if alone else None

    async def classify(windows: Sequence[Window]) -> Any:
        return classifier.score(windows)

    async def embed(texts: Sequence[str]) -> Vectors:
        return np.ones((len(texts), 1), np.float32)

    async def shorten(texts: Sequence[str]) -> list[str]:
        assert compressor is not None
        return compressor.shorten(texts)

    return SensoryMemory(
        classify=classify,
        embed=embed,
        count=classifier.count,
        window_tokens=512,
        compress=CompressConfig(rate=RATE, protect=()),
        max_words=400,
        shorten=shorten if alone else None,
    )


def sense(sensory: SensoryMemory, texts: Sequence[str]) -> None:
    """One new message of each user."""
    jobs = [
        SensoryJob([Turn(1, "m", Scope(f"u{i}"), "s", "user", "user", text, _NOW, _NOW)])
        for i, text in enumerate(texts)
    ]
    asyncio.run(sensory.sense(jobs))


def flips(encoders: Mapping[str, Encoder], texts: Sequence[str]) -> float:
    """Of 1,000 words, how many bfloat16 keeps and float32 drops, or the other way round."""
    options = LinguaOptions(rate=RATE)
    kept = []
    for encoder in encoders.values():
        found = MessageCompressor(encoder, lingua_texts.gpt_tokens).compress([[text] for text in texts], options)
        kept.append([keep for own in found for context in own.labels for _, keep in context])
    one, other = kept
    return 1000 * sum(a != b for a, b in zip(one, other, strict=True)) / max(1, len(one))


def operations(num_tokens: int, layers: int) -> float:
    """Floating point operations of one forward over a sequence of so many tokens."""
    return layers * num_tokens * (2 * 12 * WIDTH**2 + 4 * num_tokens * WIDTH)


@dataclass(slots=True)
class Peak:
    """Resident megabytes above what there was, while a call runs."""

    above: float = 0.0

    def of(self, call: Callable[[], object]) -> float:
        """Run it, watched every few milliseconds."""
        _give_back()
        before, done = _resident(), threading.Event()

        def watch() -> None:
            while not done.wait(0.003):
                self.above = max(self.above, _resident() - before)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            call()
        finally:
            done.set()
            watcher.join()
        return self.above


def _give_back() -> None:
    """What the allocator holds of earlier calls would hide what this one needs."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _resident() -> float:
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6 if statm.exists() else float("nan")


def measure(args: argparse.Namespace, table: Table, folder: Path, reference: Reference) -> list[str]:
    """Record every case; returns the goals that were missed."""
    half, dtype = (", fp16", torch.float16) if args.device == "cuda" else (", bf16", torch.bfloat16)
    encoders = {
        "": Encoder(locate(str(folder)), labels=True, device=args.device),
        half: Encoder(locate(str(folder)), labels=True, device=args.device, dtype=dtype),
    }
    stages = {
        f"{mode}{suffix}": stage(encoder, alone=mode == "per_message")
        for suffix, encoder in encoders.items()
        for mode in ("window", "per_message")
    }
    goals = GOALS if args.device == "cpu" else {}
    missed = []
    for num_tokens in args.tokens:
        for users in args.users:
            users = min(users, args.long_users) if num_tokens > 256 else users
            texts = messages(encoders[""].count, num_tokens, users)
            sample = texts[: args.sample]
            case = {"tokens": num_tokens, "users": users, "layers": args.layers, "threads": torch.get_num_threads()}
            case |= {"device": args.device} if args.device != "cpu" else {}
            calls: dict[str, Callable[[], object]] = {
                "reference": partial(reference.run, sample),
                "llmlingua": partial(reference.compress_all, sample),
            }
            for name, sensory in stages.items():
                calls[name] = partial(sense, sensory, texts)
            sizes = {name: len(sample if name in ("reference", "llmlingua") else texts) for name in calls}
            times = interleaved(calls, args.rounds)
            for name, found in times.items():
                table.spread(case, f"{name}, per message", "ms", [value / sizes[name] for value in found])
            medians = {name: float(np.median(found)) / sizes[name] for name, found in times.items()}
            mean = float(np.mean(encoders[""].count(texts))) + 2
            left = float(np.mean(encoders[""].count(reference.compress_all(sample)))) + 2
            for name, median in medians.items():
                table.value(case, f"{name}, end to end", "tokens/s", 1000 * mean / median)
            theirs = operations(512, args.layers) + operations(round(left), args.layers)
            own = operations(round(mean), args.layers)
            table.value(case, "window, operations of the reference over its own", "x", theirs / own)
            table.value(case, "per_message, operations of the reference over its own", "x", theirs / (2 * own))
            table.value(case, f"per_message{half}, words decided otherwise", "per 1,000", flips(encoders, texts))
            for name in stages:
                ratio = medians["reference"] / medians[name]
                table.value(case, f"{name}, times the reference", "x", ratio)
                table.value(case, f"{name}, times llmlingua alone", "x", medians["llmlingua"] / medians[name])
                for (tokens, least, variant), goal in goals.items():
                    if (
                        args.device == "cpu"
                        and (num_tokens, name) == (tokens, variant)
                        and users >= least
                        and ratio < goal
                    ):
                        missed.append(f"{num_tokens} tokens, {users} users, {name}: {ratio:.1f} times, goal {goal}")
            for name, call in calls.items():
                table.value(case, f"{name}, peak memory above the weights", "MB", Peak().of(call))
    return missed


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, say what missed its goal."""
    parser = parser_of(__doc__)
    parser.add_argument("--tokens", type=int, nargs="+", default=[10, 40, 120, 510], help="of a message")
    parser.add_argument("--users", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--long-users", type=int, default=4, help="at most so many with messages above 256 tokens")
    parser.add_argument("--sample", type=int, default=4, help="messages for the variants that take one at a time")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--layers", type=int, default=12, help="fewer make a smoke test, no measurement")
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0 leaves it to torch")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="of all sides")
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")  # the package's
    table = table_of("sensory", args)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        folder = save_model(Path(directory), args.layers)
        missed = measure(args, table, folder, Reference(folder, args.layers, RATE, patch, args.device))
    print(f"bench_sensory: {time.perf_counter() - started:.0f} s", file=sys.stderr)
    for problem in missed if args.layers == parser.get_default("layers") else ():
        print(f"bench_sensory: missed: {problem}", file=sys.stderr)
    return 1 if missed and args.layers == parser.get_default("layers") else 0


if __name__ == "__main__":
    sys.exit(main())

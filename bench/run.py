"""Run benches one after another.

    python -m bench.run [NAME ...] [--quick] [--list]

Without names, all that need no data files. --quick runs each small, to see that it works; its rows are not stored.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from bench.harness import ROOT


@dataclass(frozen=True, slots=True)
class Bench:
    """A module with its arguments; `files` says which data it needs, and then it runs only by hand."""

    module: str
    about: str
    arguments: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    files: str = ""


BENCHES = {
    "kv": Bench(
        "bench.bench_kv",
        "kept KV caches against computing, by length, and with a disk that becomes slow",
        (),
        ("--shape", "tiny", "--tokens", "64", "--rounds", "1", "--requests", "3", "--throttled", "64", "--dry"),
    ),
    "kv_storage": Bench(
        "bench.bench_kv_storage",
        "how far off KV caches in a byte a number are, and answers with them",
        (),
        ("--models", "tiny,packaged", "--tokens", "32", "--following", "4", "--exam", "0.01", "--dry"),
    ),
    "kv_reuse": Bench(
        "bench.bench_kv_reuse",
        "keys turned to another place: what that saves and costs",
        (),
        ("--count", "1", "--dry"),
    ),
    "search": Bench(
        "bench.bench_search",
        "recall in one user's memory of 1,000 to 100,000 entries",
        ("--embedder", "minilm"),
        ("--entries", "1000", "--searches", "20", "--dry"),
    ),
    "sensory": Bench(
        "bench.bench_sensory",
        "compression and attention between turns against the published pipeline",
        (),
        ("--layers", "2", "--tokens", "10", "40", "--users", "1", "3", "--sample", "1", "--rounds", "1", "--dry"),
    ),
    "kernels": Bench(
        "bench.bench_kernels",
        "the attention reduction and the encoder against what the machine could do",
        (),
        ("--rounds", "1", "--dry"),
    ),
    "queue": Bench(
        "bench.bench_queue",
        "the update queue against the published scan",
        (),
        ("--entries", "500", "--dry"),
    ),
    "ingest": Bench(
        "bench.bench_ingest",
        "10,000 messages from 500 users over 32 connections",
        (),
        ("--stub", "--messages", "300", "--users", "20", "--dry"),
    ),
    "ingest_mixed": Bench(
        "bench.bench_ingest",
        "searches and chats while messages arrive",
        ("--mixed", "--messages", "1000", "--users", "50"),
        ("--mixed", "--stub", "--messages", "200", "--users", "10", "--idle-seconds", "1", "--dry"),
    ),
    "sleep": Bench(
        "bench.bench_sleep",
        "what a run of sleep does to 100 invented users who correct and repeat themselves",
        (),
        ("--stub-encoders", "--users", "5", "--dry"),
    ),
    "chaos": Bench(
        "bench.bench_chaos",
        "what clients see and what is stored when things break",
        (),
        ("--small", "--dry"),
    ),
    "chat": Bench(
        "bench.bench_chat",
        "what memory adds to a chat request",
        (),
        ("--stub-encoders", "--turns", "10", "--remembered", "50", "--dry"),
    ),
    "people": Bench(
        "bench.bench_people",
        "exact answers of the packaged model, over HTTP, with memory and without",
        (),
        ("--people", "1", "--dry"),
    ),
    "serve": Bench(
        "bench.bench_serve",
        "vLLM alone, and with memory off, on, and asleep",
        files="needs vLLM: python -m bench.bench_serve",
    ),
    "interference": Bench(
        "bench.bench_interference",
        "what background work costs those who chat",
        files="needs vLLM: python -m bench.bench_interference",
    ),
    "encoders": Bench(
        "bench.bench_encoders",
        "what the memory's encoders cost those who chat with a vLLM on the same device",
        files="needs vLLM: python -m bench.bench_encoders",
    ),
    "prefix": Bench(
        "bench.bench_prefix",
        "whether memory keeps vLLM's prefix cache",
        files="needs vLLM: python -m bench.bench_prefix",
    ),
    "recall": Bench(
        "bench.bench_recall",
        "what each term of the ranking contributes",
        files="python -m bench.bench_recall locomo FILE [beam FILE ...]",
    ),
    "night": Bench(
        "bench.bench_night",
        "what is found before and after a night of sleep",
        files="python -m bench.bench_night locomo FILE [beam FILE ...]",
    ),
    "cost": Bench(
        "bench.bench_cost",
        "calls and tokens of building a memory, beside what was published",
        files="python -m bench.bench_cost FILE",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; exit code 1 if one of them failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", metavar="NAME", nargs="*", help=f"of {', '.join(BENCHES)}")
    parser.add_argument("--quick", action="store_true", help="small and unrecorded")
    parser.add_argument("--list", action="store_true", help="say what there is")
    args = parser.parse_args(argv)
    if args.list:
        for name, bench in BENCHES.items():
            print(f"{name:14}{bench.about}{f'; by hand: {bench.files}' if bench.files else ''}")
        return 0
    for name in args.names:
        if name not in BENCHES:
            parser.error(f"no bench is called {name!r}; there are {', '.join(BENCHES)}")
        if BENCHES[name].files:
            parser.error(f"{name} runs by hand: {BENCHES[name].files}")
    failed = []
    for name in args.names or [name for name, bench in BENCHES.items() if not bench.files]:
        bench = BENCHES[name]
        print(f"== {name}: {bench.about}", flush=True)
        command = [sys.executable, "-m", bench.module, *(bench.quick if args.quick else bench.arguments)]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            failed.append(name)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

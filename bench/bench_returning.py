"""A conversation that comes back after a restart of vLLM: time to its first token beside one that was never seen.

    python -m bench.bench_returning [--dry]                                # CPU, the packaged model
    python -m bench.bench_returning --model DIR -- --load-format dummy     # CUDA; vLLM's options behind --

Conversations of so many tokens are held and end; the server stops and starts again over the same data. Then each goes
on with a question, taking turns with conversations of the same length that are new to the server. Rows in
bench/results/kv.csv: milliseconds to the first token of both, tokens that were loaded, and the ratio. A server that
finds loading slower than computing does not load; then the rows say so.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.bench_serve import START_SECONDS
from bench.harness import Table, parser_of, table_of
from bench.vllm_load import WORDS, kept
from tests.support.vllm_server import FAST, MODEL, VllmServer

SETTINGS = ("extract.mode=extractive", "kv.mode=persist", "kv.min_free_bytes=0", "chat.top_k=0")
SETTLED = 3.0  # seconds without another file: everything is kept
Messages = list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back: milliseconds to its first token, tokens of the prompt, those of them that were not computed."""

    text: str
    first: float
    prompt: int
    cached: int


def ask(http: httpx.Client, messages: Messages, name: str, answer: int) -> Answer:
    """One streamed chat of a user and session of this name."""
    body: dict[str, Any] = {"model": MODEL, "messages": messages, "max_tokens": answer, "temperature": 0}
    body |= {"ignore_eos": True, "stream": True, "stream_options": {"include_usage": True}}
    body["memory"] = {"user_id": name, "session_id": name}
    usage: dict[str, Any] = {}
    text, first = "", 0.0
    started = time.perf_counter()
    with http.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"{response.status_code}: {response.read().decode()[:500]}")
        for line in response.iter_lines():
            if not line.startswith("data: {"):
                continue
            found = json.loads(line.removeprefix("data: "))
            usage = found.get("usage") or usage
            for choice in found.get("choices", ()):
                if "role" not in choice["delta"]:  # the first event brings the role alone
                    first = first or (time.perf_counter() - started) * 1000
                text += choice["delta"].get("content") or ""
    cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    return Answer(text, first, usage["prompt_tokens"], cached)


def said(number: int, length: int) -> Messages:
    """A question of about so many tokens."""
    random_ = random.Random(f"{number} {length}")
    return [{"role": "user", "content": " ".join(random_.choice(WORDS) for _ in range(length // 2))}]


def wait_until_kept(http: httpx.Client) -> int:
    """Bytes on disk, once no more are added."""
    found, since = -1, time.monotonic()
    while time.monotonic() - since < SETTLED:
        now = int(http.get("/v1/memory/kv").raise_for_status().json()["bytes_used"])
        if now != found:
            found, since = now, time.monotonic()
        time.sleep(0.2)
    if not found:
        raise RuntimeError("nothing was kept")
    return found


def measure(args: argparse.Namespace, options: Sequence[str], table: Table) -> None:
    """Hold the conversations, restart, let them go on."""
    lengths = [int(length) for length in args.tokens.split(",")]
    names = {length: [f"known {length} {i}" for i in range(args.sessions)] for length in lengths}
    with tempfile.TemporaryDirectory(dir=args.directory) as directory:
        arguments = ["--enable-prompt-tokens-details", *(() if args.model else FAST), *options]
        server = VllmServer(
            Path(directory),
            *arguments,
            settings=(*SETTINGS, *args.set),
            model=args.model,
            start_seconds=START_SECONDS,
            env=kept(args.model),
        )
        try:
            _measured(server, arguments, names, args, table)
        finally:
            if args.logs is not None:
                args.logs.write_text(server.text(), "utf-8")


def _measured(
    server: VllmServer, arguments: Sequence[str], names: dict[int, list[str]], args: argparse.Namespace, table: Table
) -> None:
    held: dict[str, Messages] = {}
    with server, httpx.Client(base_url=server.url, timeout=600) as http:
        for length, own in names.items():
            for number, name in enumerate(own):
                messages = said(number, length)
                found = ask(http, messages, name, args.answer)
                held[name] = [
                    *messages,
                    {"role": "assistant", "content": found.text or "Yes."},
                    {"role": "user", "content": "And?"},
                ]
        kept = wait_until_kept(http)
    server.start(*arguments)
    with server, httpx.Client(base_url=server.url, timeout=600) as http:
        ask(http, said(-1, 64), "warm", 4)
        for length, own in names.items():
            firsts: dict[str, list[Answer]] = {"returning": [], "new": []}
            for number, name in enumerate(own):
                turns = [
                    ("returning", held[name], name),
                    ("new", said(1000 + number, length), f"new {length} {number}"),
                ]
                for kind, messages, user in turns if number % 2 else reversed(turns):
                    firsts[kind].append(ask(http, messages, user, 1))
            case = {"model": args.label or args.model or "lightmem-micro-qwen", "tokens": length}
            case["tier"] = next((one.partition("=")[2] for one in args.set if one.startswith("kv.tier=")), "connector")
            for kind, answers in firsts.items():
                table.spread(case, f"{kind} conversation, first token", "ms", [one.first for one in answers])
                table.spread(
                    case, f"{kind} conversation, prompt not computed", "tokens", [one.cached for one in answers]
                )
            medians = {kind: float(np.median([one.first for one in answers])) for kind, answers in firsts.items()}
            table.value(case, "new over returning, first token, p50", "x", medians["new"] / medians["returning"])
        table.value({"model": case["model"], "tier": case["tier"]}, "kept on disk", "MB", kept / 1e6)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    words = list(sys.argv[1:] if argv is None else argv)
    own, options = (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    parser = parser_of(__doc__)
    parser.add_argument("--model", default="", help="a checkpoint; without it the packaged one, with options for CPU")
    parser.add_argument("--label", default="", help="the model's name in the rows, instead of --model")
    parser.add_argument("--tokens", default="256,1024", help="of a conversation, about")
    parser.add_argument("--sessions", type=int, default=5, help="conversations per length")
    parser.add_argument("--answer", type=int, default=16, help="tokens of the answer that is kept")
    parser.add_argument("--set", action="append", default=[], metavar="OPTION=VALUE", help="of the memory's, any")
    parser.add_argument("--directory", help="where the data lie; default: the system's temporary directory")
    parser.add_argument("--logs", type=Path, help="a file for the server's log; without it it is not kept")
    args = parser.parse_args(own)
    measure(args, options, table_of("kv", args))
    return 0


if __name__ == "__main__":
    sys.exit(main())

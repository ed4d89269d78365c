"""What memory adds to a chat request: the same server, the same model, with an identity and without.

    python -m bench.bench_chat [--turns 200] [--remembered 500] [--stub-encoders]

The model is the stub, whose answer takes no time, so the whole difference is memory's: recall, placing, storing before
and after. Requests with memory, without it, and with memory but reading or writing only take turns. Rows in
bench/results/chat.csv: milliseconds to the first word and to the end of the stream.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from bench.bench_search import sentences
from bench.harness import Table, interleaved, parser_of, table_of
from tests.support.server import Server

USER = "bench"
LM = ("lm.backend=stub",)
STUB_ENCODERS = ("embedder.stub=true", "classifier.source=stub")
KINDS: Mapping[str, Mapping[str, Any] | None] = {
    "off": None,
    "on": {"user_id": USER},
    "read only": {"user_id": USER, "write": False},
    "write only": {"user_id": USER, "read": False},
}


class Asker:
    """Sends one question after another, each a conversation of its own, and times the answers."""

    def __init__(self, http: httpx.Client, questions: Sequence[str]) -> None:
        self._http = http
        self._questions = iter(questions)
        self.first_word: dict[str, list[float]] = {kind: [] for kind in KINDS}

    def ask(self, kind: str) -> None:
        """Stream one answer to its end."""
        body: dict[str, Any] = {"model": "stub", "stream": True, "temperature": 0}
        body["messages"] = [{"role": "user", "content": next(self._questions)}]
        if KINDS[kind] is not None:
            body["memory"] = KINDS[kind]
        started = time.perf_counter()
        with self._http.stream("POST", "/v1/chat/completions", json=body) as answer:
            answer.raise_for_status()
            is_first = True
            for line in answer.iter_lines():
                if is_first and _word(line):
                    self.first_word[kind].append((time.perf_counter() - started) * 1000)
                    is_first = False


def _word(line: str) -> str:
    """The words in an event, if it brings any."""
    data = line.removeprefix("data: ")
    if not line.startswith("data: {"):
        return ""
    choices = json.loads(data)["choices"]
    return str(choices[0]["delta"].get("content") or "") if choices else ""


def remember(http: httpx.Client, texts: Sequence[str]) -> None:
    """Fill the user's memory."""
    rows = [{"role": "user", "content": text} for text in texts]
    for i in range(0, len(rows), 100):
        body = {"user_id": USER, "session_id": f"s{i}", "messages": rows[i : i + 100]}
        http.post("/v1/memory/add", json=body).raise_for_status()
    http.post("/v1/memory/flush", json={"user_id": USER}).raise_for_status()


def run(http: httpx.Client, turns: int, remembered: int, table: Table, case: Mapping[str, object]) -> None:
    """Record all rows."""
    rng = np.random.default_rng(1)
    remember(http, sentences(rng, remembered, 12))
    warmup = 3
    asker = Asker(http, [f"What about {text}?" for text in sentences(rng, (turns + warmup) * len(KINDS), 6)])
    whole = interleaved({kind: partial(asker.ask, kind) for kind in KINDS}, turns, warmup=warmup)
    for kind in KINDS:
        table.spread({**case, "memory": kind}, "first word", "ms", asker.first_word[kind][warmup:])
        table.spread({**case, "memory": kind}, "whole answer", "ms", whole[kind])
    for name, times in (("first word", asker.first_word), ("whole answer", whole)):
        added = float(np.median(times["on"]) - np.median(times["off"]))
        table.value(case, f"added by memory to the {name}, p50", "ms", added)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--turns", type=int, default=200)
    parser.add_argument("--remembered", type=int, default=500)
    parser.add_argument("--stub-encoders", action="store_true", help="hash words instead of running a model")
    args = parser.parse_args(argv)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    table = table_of("chat", args)
    case = {"remembered": args.remembered, "encoders": "stub" if args.stub_encoders else "packaged MiniLM"}
    settings = (*LM, *STUB_ENCODERS) if args.stub_encoders else LM
    with (
        tempfile.TemporaryDirectory() as directory,
        Server(Path(directory) / "data", settings) as server,
        httpx.Client(base_url=server.url, timeout=60) as http,
    ):
        run(http, args.turns, args.remembered, table, case)
    return 0


if __name__ == "__main__":
    sys.exit(main())

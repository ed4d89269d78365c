"""What is found before and after a night of sleep, on public conversations.

    python -m bench.bench_night locomo FILE [beam FILE ...] [--threshold 0.6] [--first N] [--dry]

Each conversation is told as a user would, asked, slept over, and asked again. A model by script decides
(`bench.scripted`): it unites what shares words, so that a run changes a lot. Rows: recall of evidence before and after,
credited and not, the changes that were applied, and a paired bootstrap of the difference in R@10. The files are for
measuring only.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from bench.bench_recall import gained, interval
from bench.harness import Table, parser_of, table_of
from bench.scripted import reply
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.evaluation.datasets import Dataset, load
from lightmem_engine.evaluation.retrieval import Replayable, evaluate
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.types import Hit, Message, SleepRun
from tests.models.chat_server import Script, running


class Told:
    """A memory that has been told everything and is only asked."""

    def __init__(self, memory: AsyncMemory) -> None:
        self._memory = memory

    async def add(
        self, messages: Sequence[Message], *, user_id: str, session_id: str | None = None, timestamp: Any = None
    ) -> None:
        """It knows."""

    async def flush(self, *, user_id: str | None = None) -> None:
        """It waits for nothing."""

    async def search(
        self, query: str, *, user_id: str, top_k: int = 10, max_tokens: int | None = None
    ) -> Sequence[Hit]:
        """As the memory."""
        return await self._memory.search(query, user_id=user_id, top_k=top_k, max_tokens=max_tokens)


async def night(config: EngineConfig, dataset: Dataset, table: Table) -> SleepRun:
    """Tell, ask, sleep, ask; returns the run."""
    single: dict[str, list[tuple[str, float]]] = {"before": [], "after": []}

    async def asked(memory: Replayable, when: str) -> None:
        report = await evaluate(
            memory,
            dataset,
            render=prompts.memory_line,
            each=lambda category, main: single[when].append((category, main["R@10"])),
        )
        for group in ("main", "credited"):
            for metric, value in report[group].items():
                table.value({**case, "group": group, "when": when}, metric, "", value)

    case: dict[str, object] = {"dataset": dataset.name, "threshold": config.sleep.threshold}
    case["conversations"] = len(dataset.conversations)
    async with AsyncMemory(config) as memory:
        await asked(memory, "before")
        run = await memory.sleep()
        await asked(Told(memory), "after")
    for name in ("applied", "rejected", "undecided", "pairs", "calls"):
        table.value(case, name, "count", getattr(run, name))
    for category, gains in gained(single["after"], single["before"]).items():
        low, high = interval(gains)
        for metric, value in (("mean", float(gains.mean())), ("95 % from", low), ("95 % to", high)):
            table.value({**case, "category": category}, f"R@10 gained by sleep, {metric}", "share", value)
    return run


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each dataset named on the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("pairs", metavar="NAME FILE", nargs="+")
    parser.add_argument("--threshold", type=float, default=0.6, help="sleep.threshold")
    parser.add_argument("--first", type=int, default=0, help="only so many conversations")
    parser.add_argument("--stub-encoders", action="store_true", help="hash words instead of running a model")
    args = parser.parse_args(argv)
    if len(args.pairs) % 2:
        parser.error("every dataset needs a name and a file")
    table = table_of("night", args)
    script = Script(reply=reply)
    options: dict[str, Any] = {"extract.mode": "extractive", "sleep.mode": "llm", "sleep.threshold": args.threshold}
    options |= {"sleep.after_entries": 0, "sleep.idle_seconds": 0.0}  # nobody sleeps before he is asked
    if args.stub_encoders:
        options |= {"embedder.stub": True, "classifier.source": "stub"}
    with running(script):
        for name, path in zip(args.pairs[::2], args.pairs[1::2], strict=True):
            dataset = load(name, path)
            if args.first:
                dataset = dataclasses.replace(dataset, conversations=dataset.conversations[: args.first])
            with tempfile.TemporaryDirectory() as directory:
                config = replace(
                    EngineConfig(data_dir=directory), **options, **{"lm.url": script.url, "lm.model": "script"}
                )
                asyncio.run(night(config, dataset, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())

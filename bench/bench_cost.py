"""What building a memory costs in calls and tokens of a language model, beside what was published.

    python -m bench.bench_cost FILE [--first N] [--dry]

LoCoMo conversations, with the default settings but for what is asked for besides: facts with relations and entities,
and summaries. The model is a script (`bench.scripted`) that answers extraction with at least one fact for each turn
that says something, about .4 of the tokens shown; tokens are counted by the packaged tokenizer, instructions included.
Rows: mean per conversation of calls and of thousands of tokens by stage, and how long the answers were.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from bench.harness import Table, parser_of, table_of
from bench.scripted import reply
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.evaluation.datasets import Dataset, load
from lightmem_engine.evaluation.retrieval import Timing, replay
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.models.packaged import packaged_minilm
from tests.models.chat_server import Script, running

# Calls and thousands of tokens per conversation of LoCoMo with GPT-4o-mini (LightMem, arXiv 2510.18866, table 3).
PUBLISHED = {
    "LangMem": (920.62, 1010.22),
    "A-MEM": (1175.47, 1149.43),
    "MemoryOS": (553.45, 287.00),
    "Mem0": (1602.20, 1693.39),
    "LightMem, r .7, threshold 512, with update": (41.65, 99.76),
    "LightMem, r .8, threshold 768, with update": (29.83, 85.19),
}
_STAGES = {"List every fact": "extraction", "Notes are listed": "decisions", "Summarise": "summaries"}


def stage_of(request: Mapping[str, Any]) -> str:
    """What a prompt is for, by its instruction."""
    system = str(request["messages"][0]["content"])
    return next(stage for start, stage in _STAGES.items() if system.startswith(start))


def counter() -> Any:
    """Tokens of a text, as a common tokenizer counts them."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(packaged_minilm().directory / "tokenizer.json"))
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


async def measure(config: EngineConfig, dataset: Dataset, script: Script, table: Table) -> dict[str, float]:
    """Tell every conversation, sleep over all; returns the means by stage and unit."""
    async with AsyncMemory(config) as memory:
        timing = Timing()
        for conversation in dataset.conversations:
            await replay(memory, conversation, conversation.id, timing)
        await memory.sleep()
        applied = sum(run.applied for run in await memory.sleep_runs())
        usage = (await memory.stats())["usage"]
    number = len(dataset.conversations)
    calls: Counter[str] = Counter(map(stage_of, script.requests))
    read: Counter[str] = Counter()
    for request in script.requests:
        assert script.count is not None
        read[stage_of(request)] += sum(script.count(str(message["content"])) for message in request["messages"])
    found: dict[str, float] = {f"calls, {stage}": count / number for stage, count in calls.items()}
    for stage, name in (("extract", "extraction"), ("sleep", "sleep")):
        tokens = usage[stage]["prompt_tokens"] + usage[stage]["completion_tokens"]
        found[f"thousand tokens, {name}"] = tokens / number / 1000
    found["calls, all"] = len(script.requests) / number
    found["thousand tokens, all"] = found["thousand tokens, extraction"] + found["thousand tokens, sleep"]
    found["answer tokens per token shown, extraction"] = usage["extract"]["completion_tokens"] / read["extraction"]
    found["changes of sleep"] = applied / number
    for metric, value in sorted(found.items()):
        table.value({"data": dataset.name, "system": "this engine"}, metric, "per conversation", value)
    assert len(script.requests) == usage["extract"]["calls"] + usage["sleep"]["calls"], "every call is counted"
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Measure one file."""
    parser = parser_of(__doc__)
    parser.add_argument("file")
    parser.add_argument("--first", type=int, default=0, help="only so many conversations")
    parser.add_argument("--stub-encoders", action="store_true", help="hash words instead of running a model")
    args = parser.parse_args(argv)
    table = table_of("cost", args)
    dataset = load("locomo", args.file)
    if args.first:
        dataset = dataclasses.replace(dataset, conversations=dataset.conversations[: args.first])
    options: dict[str, Any] = {"extract.form": "event", "sleep.summaries": True}
    if args.stub_encoders:
        options |= {"embedder.stub": True, "classifier.source": "stub"}
    script = Script(reply=reply, count=counter())
    with running(script), tempfile.TemporaryDirectory() as directory:
        options |= {"lm.url": script.url, "lm.model": "script"}
        asyncio.run(measure(replace(EngineConfig(data_dir=directory), **options), dataset, script, table))
    for system, (calls, tokens) in PUBLISHED.items():
        case = {"data": "locomo", "system": f"published: {system}"}
        table.value(case, "calls, all", "per conversation", calls)
        table.value(case, "thousand tokens, all", "per conversation", tokens)
    return 0


if __name__ == "__main__":
    sys.exit(main())

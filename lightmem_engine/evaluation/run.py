"""One file, one measurement: what `lightmem-engine eval` does.

Every run uses an engine of its own in a temporary directory, built from the given configuration, and goes through the
library's face as a user would.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightmem_engine.assemble import open_workbench
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.errors import InvalidInput
from lightmem_engine.evaluation import compression, datasets, retrieval, segmentation
from lightmem_engine.evaluation.chat_api import ChatApi
from lightmem_engine.evaluation.judged import judge
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.types import Message, Scope

RETRIEVAL = ("locomo", "beam", "longmemeval")
RATES = (0.5, 0.4, 0.3)


@dataclass(frozen=True, slots=True)
class Judged:
    """Where the judged protocol finds its models; empty URLs leave it out."""

    reader: str = ""
    judge: str = ""
    reader_model: str = ""
    judge_model: str = ""
    log: str = ""


async def evaluate_file(
    what: str,
    files: Sequence[str],
    config: EngineConfig,
    judged: Judged,
    progress: Callable[[str], None],
) -> dict[str, Any]:
    """{"main": ..., ...} of one file; of several, one such object per file name under "files"."""
    if bool(judged.reader) != bool(judged.judge):
        raise InvalidInput("--reader and --judge go together")
    results = {Path(file).name: await _evaluate_one(what, file, config, judged, progress) for file in files}
    return next(iter(results.values())) if len(results) == 1 else {"files": results}


async def _evaluate_one(
    what: str, file: str, config: EngineConfig, judged: Judged, progress: Callable[[str], None]
) -> dict[str, Any]:
    if what == "segmentation":
        return await _segmentation(file, config, progress)
    if what == "compression":
        return await _compression(file, config, progress)
    dataset = datasets.load(what, file)

    def show(done: int, of: int) -> None:
        progress(f"{what}: {done} of {of} conversations")

    with tempfile.TemporaryDirectory(prefix="lightmem-eval-") as directory:
        async with AsyncMemory(replace(config, data_dir=directory)) as memory:
            if judged.reader:
                return await _judged(memory, dataset, judged, show)
            return await retrieval.evaluate(
                memory,
                dataset,
                render=prompts.memory_line,
                usage=lambda: _usage(memory),
                everything=lambda user: _everything(memory, user),
                progress=show,
            )


async def _judged(
    memory: AsyncMemory, dataset: datasets.Dataset, judged: Judged, show: Callable[[int, int], None]
) -> dict[str, Any]:
    async with (
        ChatApi(judged.reader, judged.reader_model) as reader,
        ChatApi(judged.judge, judged.judge_model) as judging,
    ):
        with Path(judged.log or "judged.jsonl").open("w", encoding="utf-8") as log:
            return await judge(
                memory,
                dataset,
                reader=reader,
                judge=judging,
                render=prompts.memory_line,
                log=log,
                embed=memory.engine.embed,
                progress=show,
            )


async def _segmentation(file: str, config: EngineConfig, progress: Callable[[str], None]) -> dict[str, Any]:
    """`main` from the stage itself, whole documents at once; `live` from the segments that an engine stored."""
    documents = _read_list(file)
    progress("segmentation: whole documents")
    async with open_workbench(config) as bench:
        result: dict[str, Any] = dict(await segmentation.evaluate(documents, bench.sensory, config.segment))
    progress("segmentation: the published rule")
    async with open_workbench(replace(config, **{"segment.mode": "paper"})) as bench:
        result |= await segmentation.evaluate_paper(documents, bench.sensory, config.segment)
    progress("segmentation: turn by turn")
    result["live"] = segmentation.report(documents, await _stored_boundaries(documents, config))
    return result


async def _stored_boundaries(documents: Sequence[Mapping[str, Any]], config: EngineConfig) -> list[list[int]]:
    """Feed each document turn by turn as a user of its own; the first turn of each stored segment but the first."""

    async def feed(memory: AsyncMemory, index: int, messages: Sequence[Message]) -> list[int]:
        user = f"document-{index}"
        ids = [(await memory.add(message, user_id=user, session_id="s"))[0] for message in messages]
        await memory.flush(user_id=user)
        segments = await memory.engine.segments(Scope(user), "s")
        return [ids.index(segment[0]) for segment in segments[1:]]

    with tempfile.TemporaryDirectory(prefix="lightmem-eval-") as directory:
        async with AsyncMemory(replace(config, data_dir=directory)) as memory:
            feeds = [
                feed(memory, index, segmentation.document_messages(document))
                for index, document in enumerate(documents)
            ]
            return await asyncio.gather(*feeds)


async def _compression(file: str, config: EngineConfig, progress: Callable[[str], None]) -> dict[str, Any]:
    """The configured compressor at exact rates, nothing protected, and as configured; the baselines beside it."""
    conversations = _read_list(file)
    config = replace(config, **{"embedder.stub": True})  # compression reads no vectors
    exact = {"compress.protect": (), "compress.whole_words": 0}
    settings = {f"rate {rate:g}": replace(config, **exact, **{"compress.rate": rate}) for rate in RATES}
    settings["main"] = config
    result: dict[str, Any] = {}
    for name, setting in settings.items():
        progress(f"compression: {name}")
        async with open_workbench(setting) as bench:
            short = await compression.compress_conversations(conversations, bench.sensory)
        result[name] = compression.report(conversations, short)
    return result | {"baselines": compression.baselines(conversations, RATES)}


def _read_list(file: str) -> list[Any]:
    """A JSON file, gzipped or not, that holds a list."""
    data = datasets.read_json(Path(file))
    if not isinstance(data, list) or not data:
        raise InvalidInput(f"{file}: expected a non-empty JSON list")
    return data


async def _usage(memory: AsyncMemory) -> dict[str, float]:
    """The engine's counters, flat."""
    usage = (await memory.stats())["usage"]
    return {
        f"{stage}_{name}": value for stage in ("sense", "extract") for name, value in usage.get(stage, _NONE).items()
    }


_NONE: Mapping[str, float] = {"calls": 0, "prompt_tokens": 0, "completion_tokens": 0, "seconds": 0.0}


async def _everything(memory: AsyncMemory, user: str) -> list[str]:
    """All lines of a user's memory."""
    return [prompts.memory_line(hit) for hit in await memory.engine.everything(Scope(user))]

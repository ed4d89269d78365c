"""`lightmem-engine eval`: a file through an engine of its own, in a directory that is removed afterwards."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from lightmem_engine.assemble import load_encoders
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.errors import InvalidInput
from lightmem_engine.evaluation.chat_api import ChatApi
from lightmem_engine.evaluation.datasets import Dataset, load
from lightmem_engine.evaluation.judged import judge
from lightmem_engine.evaluation.retrieval import evaluate
from lightmem_engine.memory import AsyncMemory
from lightmem_engine.prompts.v1 import memory_line
from lightmem_engine.types import Vectors

SENSE = "sense"  # the stage whose calls are the encoder's


class Options(Protocol):
    """What the command line says."""

    what: str
    file: Sequence[str]
    reader: str | None
    judge: str | None
    reader_model: str
    judge_model: str
    log: str | None


async def evaluate_file(options: Options, config: EngineConfig, *, progress: Callable[[str], None]) -> dict[str, Any]:
    """The report of a LoCoMo, BEAM or LongMemEval file; see `retrieval.evaluate` and, with a reader, `judged.judge`.

    The configured data directory is not touched. A file that cannot be read, or half a judged protocol, raises
    `InvalidInput` before any model is loaded.
    """
    if len(options.file) != 1:
        raise InvalidInput(f"eval {options.what} takes one file, not {len(options.file)}")
    if bool(options.reader) != bool(options.judge):
        raise InvalidInput("the judged protocol needs both --reader and --judge")
    dataset = load(options.what, options.file[0])

    def show(done: int, total: int) -> None:
        progress(f"{dataset.name}: {done} of {total} conversations")

    with tempfile.TemporaryDirectory(prefix="lightmem-eval-") as folder:
        async with AsyncMemory(replace(config, data_dir=folder)) as memory:
            if options.reader and options.judge:
                return await _judged(memory, dataset, options, config, show)

            async def usage() -> Mapping[str, float]:
                return _usage(await memory.stats())

            return await evaluate(memory, dataset, render=memory_line, usage=usage, progress=show)


async def _judged(
    memory: AsyncMemory, dataset: Dataset, options: Options, config: EngineConfig, show: Callable[[int, int], None]
) -> dict[str, Any]:
    log_path = _emptied(options.log or f"{dataset.name}.judged.jsonl")
    embedder = (await asyncio.to_thread(load_encoders, config)).embedder

    async def embed(texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(embedder.encode, texts)

    reader = ChatApi(options.reader or "", options.reader_model)
    grader = ChatApi(options.judge or "", options.judge_model)
    try:
        with log_path.open("a", encoding="utf-8") as log:
            return await judge(
                memory,
                dataset,
                reader=reader,
                judge=grader,
                render=memory_line,
                log=log,
                embed=embed,
                progress=show,
            )
    finally:
        await reader.aclose()
        await grader.aclose()


def _emptied(path: str) -> Path:
    try:
        Path(path).write_text("", encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot write {path}: {error}") from error
    return Path(path)


def _usage(stats: Mapping[str, Any]) -> dict[str, float]:
    """Language-model calls and tokens, and the encoder's tokens and seconds, of all stages that have them."""
    calls = [use for stage, use in stats.get("usage", {}).items() if stage != SENSE]
    lanes = list(stats.get("device", {}).values())
    return {
        "llm_calls": sum(use["calls"] for use in calls),
        "llm_tokens": sum(use["prompt_tokens"] + use["completion_tokens"] for use in calls),
        "llm_seconds": sum(use["seconds"] for use in calls),
        "encoder_tokens": sum(use["tokens"] for use in lanes),
        "encoder_seconds": sum(use["seconds"] for use in lanes),
    }

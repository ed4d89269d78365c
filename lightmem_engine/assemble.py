"""From a configuration to a running engine: the only module that knows all parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lightmem_engine.chat import budget
from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import default_data_dir
from lightmem_engine.engine import LocalEngine
from lightmem_engine.loading import Encoders, choose_lm, load_encoders, load_lm
from lightmem_engine.long_term.memory import LongTermMemory
from lightmem_engine.pipeline.bisect import Retry
from lightmem_engine.pipeline.calls import CLASSIFY, EMBED, SHORTEN, ModelCalls
from lightmem_engine.pipeline.curator import Caches, Curator
from lightmem_engine.pipeline.extract import Extract, ExtractStage
from lightmem_engine.pipeline.pipeline import Pipeline
from lightmem_engine.pipeline.porter import Porter
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.protocols import Clock, Forgetful, LanguageModel
from lightmem_engine.runtime.admission import Admission, AdmittedModel
from lightmem_engine.runtime.batcher import BACKGROUND_SHARE, DeviceWorker
from lightmem_engine.runtime.clock import SystemClock
from lightmem_engine.runtime.device import give_back_memory
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.sensory.memory import SensoryMemory, spoken
from lightmem_engine.short_term.extract import Extraction, Extractor
from lightmem_engine.short_term.extractive import drafts
from lightmem_engine.stores.lock import DirectoryLock
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.types import Priority, Scope, Segment

# A search waits for at most one background batch, a quarter of this: about .2 s of MiniLM on two CPU cores.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}


@dataclass(frozen=True, slots=True)
class Workbench:
    """The sensory stage alone, without a data directory: for measurements."""

    sensory: SensoryMemory
    calls: ModelCalls


@asynccontextmanager
async def open_workbench(config: EngineConfig) -> AsyncIterator[Workbench]:
    """The models of `config` on a worker of their own."""
    encoders = await asyncio.to_thread(load_encoders, config)
    worker = _worker(config, encoders)
    calls = ModelCalls(worker, Priority.FOREGROUND)
    try:
        yield Workbench(_sensory(config, encoders, calls), calls)
    finally:
        await asyncio.to_thread(worker.close)


async def build(config: EngineConfig, clock: Clock | None = None) -> LocalEngine:
    """Open the data directory, load the models, take up unfinished work.

    Raises `ConfigError` for what cannot be on this machine, `StoreError` if the directory cannot be used.
    """
    clock = clock or SystemClock()
    directory = Path(config.data_dir or default_data_dir()).expanduser()
    failpoints = Failpoints(config.runtime.failpoint)
    lock = DirectoryLock(directory)
    try:
        encoders = await asyncio.to_thread(load_encoders, config)
        lm = await asyncio.to_thread(load_lm, config, encoders.device)
        db = await _open_db(directory / "memory.db", encoders.embedder.name, failpoints)
    except BaseException:
        lock.release()
        raise
    worker = _worker(config, encoders)
    admission = Admission(config.runtime.max_background)
    pipeline = _pipeline(config, db, encoders, lm, worker, admission, clock, failpoints)
    calls = ModelCalls(worker, Priority.FOREGROUND)
    long_term = LongTermMemory(
        feed=db,
        make_index=lambda: UserIndex(encoders.embedder.dim, encoders.device.kind),
        embed=calls.embed,
        config=config,
        clock=clock,
        render=prompts.memory_line,
        spoken=spoken,
    )

    def forget_user(scope: Scope) -> None:
        pipeline.forget_user(scope)
        long_term.forget(scope)
        engine.forget_turns(scope)

    def forget_words(scope: Scope) -> None:
        for forget in (pipeline.forget, long_term.forget, engine.doubt_turns):
            forget(scope)

    embed_model = encoders.embedder.name
    caches = Caches(forget_words, forget_user, forget_prompts(lm))
    chat_budget_ms = await budget.automatic(
        encoders.device.kind, calls.embed, (config.runtime.batch_tokens or BATCH_TOKENS["cpu"]) // BACKGROUND_SHARE
    )
    await pipeline.start()
    engine = LocalEngine(
        config=config,
        db=db,
        pipeline=pipeline,
        long_term=long_term,
        lm=lm,
        embed=calls.embed,
        worker=worker,
        admission=admission,
        clock=clock,
        release=lock.release,
        directory=directory,
        curator=Curator(db, calls.embed, embed_model, spoken, clock, caches),
        porter=Porter(db, ModelCalls(worker, Priority.INGEST).embed, embed_model, spoken, pipeline),
        forget_prompts=caches.prompts,
        chat_budget_ms=chat_budget_ms,
    )
    return engine


def forget_prompts(lm: LanguageModel) -> Callable[[], Awaitable[None]]:
    """What empties a model's caches of what it has read; of a model elsewhere, nothing is kept here."""

    async def forget() -> None:
        if isinstance(lm, Forgetful):
            await lm.forget()

    return forget


async def _open_db(path: Path, embed_model: str, failpoints: Failpoints) -> MemoryDB:
    db = await MemoryDB.open(path, failpoints)
    try:
        await db.bind_embedder(embed_model)
    except BaseException:
        await db.aclose()
        raise
    return db


def _worker(config: EngineConfig, encoders: Encoders) -> DeviceWorker:
    batch_tokens = config.runtime.batch_tokens or BATCH_TOKENS[encoders.device.kind]
    worker = DeviceWorker(batch_tokens, config.runtime.max_queued_tokens, tidy=give_back_memory)
    worker.add_lane(CLASSIFY, encoders.classifier.score)
    worker.add_lane(EMBED, encoders.embedder.encode)
    worker.add_lane(SHORTEN, encoders.shorten or list)
    return worker


def _sensory(config: EngineConfig, encoders: Encoders, calls: ModelCalls) -> SensoryMemory:
    return SensoryMemory(
        classify=calls.classify,
        embed=calls.embed,
        count=encoders.classifier.count,
        window_tokens=min(config.classifier.window_tokens, encoders.classifier.max_tokens),
        compress=config.compress,
        max_words=config.extract.max_words,
        attend="users" if config.segment.mode == "paper" else "turns",
        shorten=None if encoders.shorten is None else calls.shorten,
    )


def _pipeline(
    config: EngineConfig,
    db: MemoryDB,
    encoders: Encoders,
    lm: LanguageModel,
    worker: DeviceWorker,
    admission: Admission,
    clock: Clock,
    failpoints: Failpoints,
) -> Pipeline:
    """The stages over the models at ingest priority."""
    pipelines: list[Pipeline] = []
    runtime = config.runtime
    retry = Retry(runtime.max_attempts, runtime.backoff_seconds, on_wait=lambda error: pipelines[0].waiting(error))
    calls = ModelCalls(worker, Priority.INGEST)
    sense = SenseStage(db, _sensory(config, encoders, calls), config.segment, retry, clock, failpoints)
    extract = ExtractStage(
        db,
        _extractor(config, lm, admission),
        calls.embed,
        encoders.embedder.name,
        config.short_term.threshold,
        retry,
        clock,
        failpoints,
        forget_prompts(lm),
    )
    pipelines.append(Pipeline(db, sense, extract, retry, config.short_term.idle_seconds, runtime.max_background, clock))
    return pipelines[0]


def _extractor(config: EngineConfig, lm: LanguageModel, admission: Admission) -> Extract:
    mode = config.extract.mode
    if mode == "auto":
        mode = "extractive" if choose_lm(config)[0] in ("packaged", "stub") else "llm"
    if mode == "extractive":

        async def extractive(segments: Sequence[Segment]) -> Extraction:
            found = await asyncio.to_thread(lambda: tuple(draft for segment in segments for draft in drafts(segment)))
            return Extraction(found)

        return extractive
    extractor = Extractor(AdmittedModel(lm, admission), max_tokens=config.extract.max_tokens)
    return extractor.extract

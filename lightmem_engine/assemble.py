"""From a configuration to a running engine: the only module that knows all parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from lightmem_engine.chat import budget
from lightmem_engine.config import EngineConfig
from lightmem_engine.config_loader import default_data_dir
from lightmem_engine.engine import LocalEngine
from lightmem_engine.keeping import open_kept
from lightmem_engine.loading import Encoders, load_encoders, load_lm
from lightmem_engine.long_term.memory import LongTermMemory
from lightmem_engine.pipeline.calls import CLASSIFY, EMBED, SHORTEN, ModelCalls
from lightmem_engine.pipeline.curator import Caches, Curator
from lightmem_engine.pipeline.listeners import Listeners
from lightmem_engine.pipeline.porter import Porter
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.protocols import Clock
from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.batcher import BACKGROUND_SHARE, DeviceWorker
from lightmem_engine.runtime.clock import SystemClock
from lightmem_engine.runtime.courtesy import Slice
from lightmem_engine.runtime.device import give_back_memory
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.runtime.finished import Finished
from lightmem_engine.runtime.flag import NAME as FLAG_NAME
from lightmem_engine.runtime.flag import ForegroundFlag
from lightmem_engine.sensory.memory import SensoryMemory, spoken
from lightmem_engine.stages import admission_policy, asks_behind, forget_prompts, load_watch, sleeper
from lightmem_engine.stages import pipeline as build_pipeline
from lightmem_engine.stores.lock import DirectoryLock
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.types import Priority, Scope

# A search waits for at most one background batch, a quarter of this: about .2 s of MiniLM on two CPU cores.
BATCH_TOKENS = {"cpu": 4096, "cuda": 65536}
# A background batch beside a model server on the same device. 2,048 tokens are 3 ms of XLM-R large on an H200.
SLICES = {"cpu": Slice(0.02, 64), "cuda": Slice(0.005, 2048)}


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
        lm = await asyncio.to_thread(load_lm, config, encoders.device, encoders.served)
        db = await _open_db(config, directory / "memory.db", encoders.embedder.name, failpoints)
    except BaseException:
        lock.release()
        raise
    kept = await open_kept(config, directory, db, lm, clock, failpoints)
    worker = _worker(config, encoders)
    flag = ForegroundFlag(directory / FLAG_NAME, is_writer=True) if config.lm.pauses else None

    def tell_users(count: int) -> None:
        if flag is not None:
            flag.set(count)
        if config.device.shared:
            worker.users(count)

    admission = Admission(admission_policy(config), tell_users)
    embed_model = encoders.embedder.name
    sleep = sleeper(config, db, embed_model, lm, worker, admission, clock, failpoints, encoders.device.kind)
    listeners = Listeners(sleep.heard, sleep.extracted)
    sensory = _sensory(config, encoders, ModelCalls(worker, Priority.INGEST))
    # Held until what was said has been extracted.
    finished = Finished(2 * config.short_term.idle_seconds + 60 if asks_behind(config) else 0)
    models = (embed_model, lm, worker, admission)
    pipeline = build_pipeline(config, db, sensory, *models, clock, failpoints, listeners, finished)
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
        sleep.forget_user(scope)
        long_term.forget(scope)
        engine.forget_turns(scope)

    def forget_words(scope: Scope) -> None:
        for forget in (pipeline.forget, long_term.forget, engine.doubt_turns):
            forget(scope)

    forget_read = forget_prompts(lm)

    async def forget_caches() -> None:
        await forget_read()
        if encoders.served is not None:
            encoders.served.clear()
        await kept.settle()

    caches = Caches(forget_words, forget_user, forget_caches)
    chat_budget_ms = await budget.automatic(
        encoders.device.kind, calls.embed, (config.runtime.batch_tokens or BATCH_TOKENS["cpu"]) // BACKGROUND_SHARE
    )
    watch = load_watch(config, admission)

    def release() -> None:
        if watch is not None:
            watch.stop()
        if flag is not None:
            flag.set(0)
        lock.release()

    if watch is not None:
        watch.start()
    await pipeline.start()
    await sleep.start()
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
        release=release,
        directory=directory,
        curator=Curator(db, calls.embed, embed_model, spoken, clock, caches),
        sleeper=sleep,
        porter=Porter(db, ModelCalls(worker, Priority.INGEST).embed, embed_model, spoken, pipeline),
        forget_prompts=caches.prompts,
        kept=kept,
        chat_budget_ms=chat_budget_ms,
        finished=finished,
        note_attention=None if encoders.served is None else encoders.served.note,
    )
    return engine


async def _open_db(config: EngineConfig, path: Path, embed_model: str, failpoints: Failpoints) -> MemoryDB:
    db = await MemoryDB.open(path, failpoints, share_salt=config.kv.salt == "tenant")
    try:
        await db.bind_embedder(embed_model)
    except BaseException:
        await db.aclose()
        raise
    return db


def _worker(config: EngineConfig, encoders: Encoders) -> DeviceWorker:
    batch_tokens = config.runtime.batch_tokens or BATCH_TOKENS[encoders.device.kind]
    slice_ = SLICES[encoders.device.kind] if config.device.shared else None
    max_queued = config.runtime.max_queued_tokens
    worker = DeviceWorker(batch_tokens, max_queued, tidy=give_back_memory, slice=slice_)
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

"""From a configuration to a running engine: the only module that knows all parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
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
from lightmem_engine.pipeline.kept import Kept
from lightmem_engine.pipeline.listeners import Listeners
from lightmem_engine.pipeline.porter import Porter
from lightmem_engine.prompts import v1 as prompts
from lightmem_engine.protocols import Clock, LanguageModel
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
    """Open the data directory, load the models, take up unfinished work; if that fails, nothing stays open.

    Raises `ConfigError` for what cannot be on this machine, `StoreError` if the directory cannot be used.
    """
    async with AsyncExitStack() as undo:
        engine = await _stages(await _ground(config, clock or SystemClock(), undo), undo)
        undo.pop_all()  # closed by the engine from now on
    return engine


@dataclass(frozen=True, slots=True)
class _Ground:
    """What the stages stand on. release: the last thing that closing does."""

    config: EngineConfig
    clock: Clock
    failpoints: Failpoints
    directory: Path
    encoders: Encoders
    lm: LanguageModel
    db: MemoryDB
    kept: Kept
    worker: DeviceWorker
    admission: Admission
    release: Callable[[], None]

    def calls(self, priority: Priority) -> ModelCalls:
        """The encoders, for work of this class."""
        return ModelCalls(self.worker, priority)


async def _ground(config: EngineConfig, clock: Clock, undo: AsyncExitStack) -> _Ground:
    directory = Path(config.data_dir or default_data_dir()).expanduser()
    failpoints = Failpoints(config.runtime.failpoint)
    closing = ExitStack()  # in the opposite order
    undo.push(closing)
    closing.callback(DirectoryLock(directory).release)
    encoders = await asyncio.to_thread(load_encoders, config)
    lm = await asyncio.to_thread(load_lm, config, encoders.device, encoders.served)
    undo.push_async_callback(lm.aclose)
    db = await _open_db(config, directory / "memory.db", encoders.embedder.name, failpoints)
    undo.push_async_callback(db.aclose)
    kept = await open_kept(config, directory, db, lm, clock, failpoints)
    undo.push_async_callback(kept.aclose)
    worker = _worker(config, encoders)
    undo.callback(worker.close)
    flag = ForegroundFlag(directory / FLAG_NAME, is_writer=True) if config.lm.pauses else None
    if flag is not None:
        closing.callback(flag.set, 0)

    def tell_users(count: int) -> None:
        if flag is not None:
            flag.set(count)
        if config.device.shared:
            worker.users(count)

    admission = Admission(admission_policy(config), tell_users)
    watch = load_watch(config, admission)
    if watch is not None:
        watch.start()
        closing.callback(watch.stop)
    return _Ground(config, clock, failpoints, directory, encoders, lm, db, kept, worker, admission, closing.close)


async def _stages(ground: _Ground, undo: AsyncExitStack) -> LocalEngine:
    config, clock, db, lm, encoders = ground.config, ground.clock, ground.db, ground.lm, ground.encoders
    embed_model = encoders.embedder.name
    rest = (ground.worker, ground.admission, clock, ground.failpoints)
    sleep = sleeper(config, db, embed_model, lm, *rest, encoders.device.kind)
    sensory = _sensory(config, encoders, ground.calls(Priority.INGEST))
    # Held until what was said has been extracted.
    finished = Finished(2 * config.short_term.idle_seconds + 60 if asks_behind(config) else 0)
    listeners = Listeners(sleep.heard, sleep.extracted)
    pipeline = build_pipeline(config, db, sensory, embed_model, lm, *rest, listeners, finished, ground.kept.gone)
    embed = ground.calls(Priority.FOREGROUND).embed
    long_term = LongTermMemory(
        feed=db,
        make_index=lambda: UserIndex(encoders.embedder.dim, encoders.device.kind),
        embed=embed,
        config=config,
        clock=clock,
        render=prompts.memory_line,
        spoken=spoken,
    )

    def forget_user(scope: Scope) -> None:
        for forget in (pipeline.forget_user, sleep.forget_user, long_term.forget, engine.forget_turns):
            forget(scope)

    def forget_words(scope: Scope) -> None:
        for forget in (pipeline.forget, long_term.forget, engine.doubt_turns):
            forget(scope)

    forget_read = forget_prompts(lm)

    async def forget_caches() -> None:
        await forget_read()
        if encoders.served is not None:
            encoders.served.clear()
        await ground.kept.settle()

    caches = Caches(forget_words, forget_user, forget_caches)
    at_once = (config.runtime.batch_tokens or BATCH_TOKENS["cpu"]) // BACKGROUND_SHARE
    chat_budget_ms = await budget.automatic(encoders.device.kind, embed, at_once)
    await pipeline.start()
    undo.push_async_callback(pipeline.aclose)
    await sleep.start()
    undo.push_async_callback(sleep.aclose)
    engine = LocalEngine(
        config=config,
        db=db,
        pipeline=pipeline,
        long_term=long_term,
        lm=lm,
        embed=embed,
        worker=ground.worker,
        admission=ground.admission,
        clock=clock,
        release=ground.release,
        directory=ground.directory,
        curator=Curator(db, embed, embed_model, spoken, clock, caches),
        sleeper=sleep,
        porter=Porter(db, ground.calls(Priority.INGEST).embed, embed_model, spoken, pipeline),
        forget_prompts=caches.prompts,
        kept=ground.kept,
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

"""The stages and sleep over models that are loaded already: which of them work how."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from lightmem_engine.config import EngineConfig
from lightmem_engine.loading import choose_lm
from lightmem_engine.models.server_load import CALM_SECONDS, INTERVAL_SECONDS, LoadWatch
from lightmem_engine.pipeline.bisect import Retry
from lightmem_engine.pipeline.calls import ModelCalls
from lightmem_engine.pipeline.consolidate import Consolidator
from lightmem_engine.pipeline.extract import ExtractStage
from lightmem_engine.pipeline.listeners import Listeners
from lightmem_engine.pipeline.means import Means, Reach
from lightmem_engine.pipeline.pipeline import Pipeline
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.pipeline.sleeper import Sleeper
from lightmem_engine.protocols import Clock, Forgetful, LanguageModel
from lightmem_engine.protocols_kv import KnowsCaches
from lightmem_engine.runtime.admission import Admission, AdmittedModel
from lightmem_engine.runtime.batcher import DeviceWorker
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.runtime.finished import Finished
from lightmem_engine.runtime.policy import Policy
from lightmem_engine.sensory.memory import SensoryMemory, spoken
from lightmem_engine.short_term.behind import Behind
from lightmem_engine.short_term.extract import Extraction, Extractor
from lightmem_engine.short_term.extractive import drafts
from lightmem_engine.sleep.decide import Decider
from lightmem_engine.sleep.queue import Rows, TopK
from lightmem_engine.sleep.summarize import Summarizer
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import Floats, Priority, Segment, Vectors


def forget_prompts(lm: LanguageModel) -> Callable[[], Awaitable[None]]:
    """What empties a model's caches of what it has read; of a model elsewhere, nothing is kept here."""

    async def forget() -> None:
        if isinstance(lm, Forgetful):
            await lm.forget()

    return forget


def admission_policy(config: EngineConfig) -> Policy:
    """How background calls share the language model with users. A server elsewhere stops a call that is cancelled, and
    keeps what it has read of its prompt; a model in this process finishes its step first, and calls stay."""
    slots = config.lm.slots
    is_remote = choose_lm(config)[0] == "remote"
    return Policy(
        config.runtime.max_background,
        preempts=is_remote,
        pauses=is_remote and config.lm.pauses,
        slots=slots,
        reserved=max(1, slots // 8),
    )


def load_watch(config: EngineConfig, admission: Admission) -> LoadWatch | None:
    """What tells admission of a model server's load; None for a model in this process."""
    if choose_lm(config)[0] != "remote":
        return None
    url = config.lm.url or config.upstream.url
    return LoadWatch(
        url,
        admission.heard,
        lambda: bool(admission.num_waiting or admission.num_background),
        api_key=config.lm.api_key,
        interval=CALM_SECONDS if config.lm.pauses else INTERVAL_SECONDS,
    )


def pipeline(
    config: EngineConfig,
    db: MemoryDB,
    sensory: SensoryMemory,
    embed_model: str,
    lm: LanguageModel,
    worker: DeviceWorker,
    admission: Admission,
    clock: Clock,
    failpoints: Failpoints,
    listeners: Listeners,
    finished: Finished,
    gone: Callable[[int], int] = lambda _: 0,
) -> Pipeline:
    """The stages over the models at ingest priority. gone: see `short_term.behind`."""
    pipelines: list[Pipeline] = []
    runtime = config.runtime
    retry = Retry(runtime.max_attempts, runtime.backoff_seconds, on_wait=lambda error: pipelines[0].waiting(error))
    calls = ModelCalls(worker, Priority.INGEST)
    sense = SenseStage(db, sensory, config.segment, retry, clock, failpoints)
    extractor = _extractor(config, lm, admission, db, finished, gone) if _extracts_by_model(config) else None
    reads_ahead = extractor is not None and config.kv.segments and getattr(lm, "kept", None) is not None
    extract = ExtractStage(
        db,
        _extractive if extractor is None else extractor.extract,
        calls.embed,
        embed_model,
        config.short_term.threshold,
        retry,
        clock,
        failpoints,
        forget_prompts(lm),
        partial(_read_ahead, extractor, AdmittedModel(lm, admission)) if extractor and reads_ahead else None,
    )
    pipelines.append(
        Pipeline(db, sense, extract, retry, config.short_term.idle_seconds, runtime.max_background, clock, listeners)
    )
    return pipelines[0]


def _extracts_by_model(config: EngineConfig) -> bool:
    mode = config.extract.mode
    return mode == "llm" or (mode == "auto" and choose_lm(config)[0] not in ("packaged", "stub"))


async def _extractive(segments: Sequence[Segment]) -> Extraction:
    found = await asyncio.to_thread(lambda: tuple(draft for segment in segments for draft in drafts(segment)))
    return Extraction(found)


def asks_behind(config: EngineConfig) -> bool:
    """Whether extraction may be asked behind a conversation: of a model whose caches are there for it. The packaged one
    has learned the other form alone."""
    caches = {"qwen": True, "remote": config.lm.send_salt}
    return config.extract.prefix and _extracts_by_model(config) and caches.get(choose_lm(config)[0], False)


def _extractor(
    config: EngineConfig,
    lm: LanguageModel,
    admission: Admission,
    db: MemoryDB,
    finished: Finished,
    gone: Callable[[int], int],
) -> Extractor:
    # A salt costs a row per user; a model elsewhere is told of it only if it understands.
    salt_of = db.chats.salt if isinstance(lm, Forgetful) or config.lm.send_salt else None
    model = AdmittedModel(lm, admission)
    behind = Behind(finished.find, lm, gone) if isinstance(lm, KnowsCaches) and asks_behind(config) else None
    form, max_tokens = config.extract.form, config.extract.max_tokens
    return Extractor(model, mode=form, max_tokens=max_tokens, salt_of=salt_of, behind=behind)


async def _read_ahead(extractor: Extractor, model: AdmittedModel, segments: Sequence[Segment]) -> None:
    if segments:
        await extractor.read_ahead(segments, model)


REACH = {"packaged": Reach(max_notes=5, threshold=0.3, is_small=True)}
USUAL_REACH = Reach(max_notes=24, threshold=0.8, is_small=False)


def reach(config: EngineConfig) -> Reach:
    """What the model of this configuration is asked about in sleep."""
    usual = REACH.get(choose_lm(config)[0], USUAL_REACH)
    options = config.sleep
    return Reach(options.max_notes or usual.max_notes, options.threshold or usual.threshold, usual.is_small)


def sleep_mode(config: EngineConfig) -> Literal["rules", "llm"]:
    """Who decides in sleep."""
    if config.sleep.mode != "auto":
        return config.sleep.mode
    return "rules" if choose_lm(config)[0] in ("packaged", "stub") else "llm"


def sleeper(
    config: EngineConfig,
    db: MemoryDB,
    embed_model: str,
    lm: LanguageModel,
    worker: DeviceWorker,
    admission: Admission,
    clock: Clock,
    failpoints: Failpoints,
    device: str,
) -> Sleeper:
    """Sleep over the models at the lowest priority."""
    mode = sleep_mode(config)
    admitted = AdmittedModel(lm, admission)
    means = Means(
        db=db,
        topk=topk_on(device),
        embed=ModelCalls(worker, Priority.SLEEP).embed,
        embed_model=embed_model,
        spoken=spoken,
        decider=Decider(admitted, config.sleep.answer_tokens) if mode == "llm" else None,
        summarizer=Summarizer(admitted, config.sleep.answer_tokens)
        if mode == "llm" and config.sleep.summaries
        else None,
        at_once=config.runtime.max_background,
        reach=reach(config),
        retry=Retry(config.runtime.max_attempts, config.runtime.backoff_seconds),
        clock=clock,
        failpoints=failpoints,
        forget_prompts=forget_prompts(lm),
    )
    return Sleeper(db, Consolidator(config, means), config, mode, clock)


def topk_on(device: str) -> TopK:
    """The similarity search of the kernels, over numpy arrays; torch is loaded by the first call."""

    def topk(
        vectors: Vectors, order: Rows, group: Rows, k: int, *, direction: str, queries: Rows | None
    ) -> tuple[Floats, Rows]:
        import torch

        from lightmem_kernels import similarity_topk

        x, places, users = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (vectors, order, group))
        asked = None if queries is None else torch.from_numpy(queries).to(device)
        scores, rows = similarity_topk(x, places, users, k, direction=direction, queries=asked)  # type: ignore[arg-type]
        return scores.cpu().numpy(), rows.cpu().numpy()

    return topk

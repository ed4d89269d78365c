"""From a configuration to KV caches that are kept: store, keeper, and the in-process model's tier."""

from __future__ import annotations

import asyncio
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import ConfigError, StoreError
from lightmem_engine.kv.choice import choose, instead
from lightmem_engine.kv.index import Bounds
from lightmem_engine.kv.store import KVStore
from lightmem_engine.loading import choose_lm
from lightmem_engine.pipeline.kept import Kept
from lightmem_engine.pipeline.kv_keeper import KVKeeper
from lightmem_engine.protocols import Clock, LanguageModel
from lightmem_engine.runtime.complain import complain
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.stores import kv_manifests
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import Priority

if TYPE_CHECKING:
    from lightmem_engine.models.kv_tier import KVTier
    from lightmem_engine.models.qwen import QwenModel

logger = logging.getLogger(__name__)


def kv_directory(config: EngineConfig, data_dir: Path) -> Path:
    """Where KV caches lie: a folder that holds nothing else, for it goes whole when they are turned off."""
    return (Path(config.kv.directory).expanduser() if config.kv.directory else data_dir) / "kv"


async def open_kept(
    config: EngineConfig, data_dir: Path, db: MemoryDB, lm: LanguageModel, clock: Clock, failpoints: Failpoints
) -> Kept:
    """Kept caches as configured. A directory that cannot be used turns them off, with the reason; it is no reason not
    to start. Turned off, what was kept before is removed: nobody would look after it."""
    root = kv_directory(config, data_dir)
    if config.kv.reuse == "approximate":
        _reuse_approximately(config, lm)
    if config.kv.mode == "off":
        await db.write(kv_manifests.end_all)
        if root.is_dir():
            await asyncio.to_thread(shutil.rmtree, root, ignore_errors=True)
        if not root.exists():
            await db.write(kv_manifests.forget_all_gone)
        return Kept(None, "kv.mode = off")
    try:
        store = await asyncio.to_thread(_open_store, config, root, failpoints)
    except StoreError as error:
        complain(logger, "no KV caches are kept", error)
        return Kept(None, str(error), configured=config.kv.mode)
    keeper = KVKeeper(db, store, config.kv, clock)
    await keeper.start()
    tier = await _attach(config, keeper, lm) if choose_lm(config)[0] in ("packaged", "qwen") else None

    async def release() -> None:
        if tier is not None:
            await tier.aclose()
        await keeper.aclose()
        await asyncio.to_thread(store.close)

    return Kept(keeper, release=release)


def _open_store(config: EngineConfig, root: Path, failpoints: Failpoints) -> KVStore:
    kv = config.kv
    bounds = Bounds(kv.max_bytes, kv.tenant_share, kv.min_free_bytes)
    return KVStore(root, bounds, sync=kv.durability == "fsync", failpoints=failpoints)


def _reuse_approximately(config: EngineConfig, lm: LanguageModel) -> None:
    """Raises `ConfigError` where that cannot be."""
    if choose_lm(config)[0] not in ("packaged", "qwen"):
        raise ConfigError("kv.reuse = approximate is for a model in this process; set kv.reuse = exact")
    from lightmem_engine.models.qwen import QwenModel

    if isinstance(lm, QwenModel):
        lm.reuse_approximately()


async def _attach(config: EngineConfig, keeper: KVKeeper, lm: LanguageModel) -> KVTier | None:
    """The tier of the model in this process."""
    from lightmem_engine.models.kv_tier import KVTier
    from lightmem_engine.models.qwen import QwenModel

    if not isinstance(lm, QwenModel):
        return None
    try:
        how = keeper.store, config.kv.chunk_tokens, config.kv.storage
        fingerprint, storage, rates = await asyncio.to_thread(lm.describe_kv, *how)
        room = keeper.store.free_bytes(keeper.store.root) - config.kv.min_free_bytes
    except OSError as error:
        reason = "the KV directory could not be measured: nothing is kept of the model"
        complain(logger, reason, error)
        keeper.tell_by(lambda: {"mode": "off", "reason": reason})
        return None
    can_warm = config.lm.cache_bytes > 0
    here = config.kv.mode, rates, storage.size
    choice = choose(*here, context=lm.max_context, can_warm=can_warm, room=room)
    if config.kv.mode == "auto":
        level = logging.INFO if choice.mode == "persist" else logging.WARNING
        logger.log(level, "kv.mode = auto is %s: %s", choice.mode, choice.reason)
    fallback = instead("", can_warm=can_warm) if config.kv.mode == "auto" else None
    options = {"chunk_tokens": config.kv.chunk_tokens, "min_tokens": config.kv.min_tokens}
    tier = KVTier(keeper.store, fingerprint, storage, rates, **options, choice=choice, fallback=fallback)
    tier.start(keeper)
    keeper.attach(tier)
    keeper.tell_by(tier.describe)
    lm.kept = tier
    if choice.mode == "warm":
        keeper.warm_up(partial(_read_ahead, lm), fingerprint)
    return tier


async def _read_ahead(lm: QwenModel, tokens: list[int], salt: str) -> None:
    await lm.read_ahead(tokens, salt, Priority.SLEEP)

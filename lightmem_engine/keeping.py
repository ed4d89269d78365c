"""From a configuration to KV caches that are kept: store, keeper, and the in-process model's tier."""

from __future__ import annotations

import asyncio
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import StoreError
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
        return Kept(None, str(error))
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


async def _attach(config: EngineConfig, keeper: KVKeeper, lm: LanguageModel) -> KVTier | None:
    """The tier of the model in this process."""
    from lightmem_engine.models.kv_tier import KVTier
    from lightmem_engine.models.qwen import QwenModel

    if not isinstance(lm, QwenModel):
        return None
    try:
        fingerprint, layout, rates = await asyncio.to_thread(lm.describe_kv, keeper.store, config.kv.chunk_tokens)
    except OSError as error:
        complain(logger, "the KV directory could not be measured: nothing is kept of the model", error)
        return None
    options = {"chunk_tokens": config.kv.chunk_tokens, "min_tokens": config.kv.min_tokens}
    tier = KVTier(keeper.store, fingerprint, layout, rates, **options, warm=config.kv.mode == "warm")
    tier.start(keeper)
    keeper.attach(tier)
    lm.kept = tier
    if config.kv.mode == "warm":
        keeper.warm_up(partial(_read_ahead, lm), fingerprint)
    return tier


async def _read_ahead(lm: QwenModel, tokens: list[int], salt: str) -> None:
    await lm.read_ahead(tokens, salt, Priority.SLEEP)

"""A small Qwen with a place to keep its caches, without an engine around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from lightmem_engine.kv.index import Bounds
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.models.kv_storage import Kind
from lightmem_engine.models.kv_tier import KVTier, Offer
from lightmem_engine.models.qwen import QwenModel
from lightmem_engine.types import CacheOwner, Completion, Priority, Prompt, Sampling, Scope

CHUNK = 16
OWNER = CacheOwner(Scope("ann"), thread=1, link=1)
GREEDY = Sampling(max_tokens=12)


class Slow(Rates):
    """As if this machine computed one token a second: loading always pays."""

    def computed(self, num_tokens: int, seconds: float) -> None:
        """Nothing is learned from models this small."""


class Everything:
    """A binder for whom all that is offered stands, until it is told otherwise."""

    def __init__(self, store: KVStore) -> None:
        self.stand = True
        self.bound: list[Offer] = []
        self.sizes: list[int] = []
        self._store = store

    async def stands(self, owner: CacheOwner) -> bool:
        return self.stand

    async def bind(self, offer: Offer, fingerprint: bytes, num_tokens: int, num_bytes: int) -> bool:
        self.bound.append(offer)
        self.sizes.append(num_bytes)
        self._store.allow([offer.id])
        return True


@asynccontextmanager
async def keeping(
    model: QwenModel, root: Path, *, rates: Rates | None = None, min_tokens: int = 1, kind: Kind = "exact", **known: Any
) -> AsyncIterator[tuple[KVTier, Everything]]:
    """The model keeps its caches under `root` as long as the context lasts. Manifests of before stand again."""
    store = KVStore(root, Bounds(1 << 30))
    store.allow(store.index.kept_by())
    fingerprint, storage, _ = await asyncio.to_thread(model.describe_kv, store, CHUNK, kind)
    rates = rates or Slow(tokens=1.0, bytes=1e12)
    tier = KVTier(store, fingerprint, storage, rates, chunk_tokens=CHUNK, min_tokens=min_tokens, **known)
    binder = Everything(store)
    tier.start(binder)
    model.kept = tier
    try:
        yield tier, binder
    finally:
        await settle(model, tier)
        model.kept = None
        await tier.aclose()
        store.close()


async def settle(model: QwenModel, tier: KVTier) -> None:
    """What has been answered is kept."""
    await model._step(lambda: None, Priority.FOREGROUND)  # a cache is offered behind its answer
    await tier.settle()


async def ask(model: QwenModel, prompt: Prompt, sampling: Sampling = GREEDY) -> Completion:
    """One answer."""
    return (await model.generate([prompt], sampling=sampling, priority=Priority.FOREGROUND))[0]


def count_forward(model: QwenModel) -> list[int]:
    """The tokens of every forward pass from now on."""
    counts: list[int] = []
    model._model.register_forward_pre_hook(
        lambda _, args, kwargs: counts.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    return counts

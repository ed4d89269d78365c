"""Kept KV caches follow the memory: which of them stand is a matter of `memory.db`, and what has ended leaves the disk.

A manifest is added here, and ended by whatever changes the memory (`stores.schema_kv`), in that same transaction. From
the commit on nobody finds it (`ended`, called by the writer before it answers); its files go right after. An erasure
waits for them with `settle`.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Protocol

from lightmem_engine.config_kv import KvConfig
from lightmem_engine.errors import LightMemError, StoreError
from lightmem_engine.kv import report
from lightmem_engine.kv.keys import Tokens
from lightmem_engine.kv.remains import left_by_dead
from lightmem_engine.kv.store import KVStore
from lightmem_engine.pipeline.kv_followers import Followers
from lightmem_engine.pipeline.kv_reports import Reports
from lightmem_engine.protocols import Clock
from lightmem_engine.runtime.complain import complain
from lightmem_engine.stores import kv_manifests
from lightmem_engine.stores.kv_manifests import Manifest
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import CacheOwner

logger = logging.getLogger(__name__)

LOOK_SECONDS = 60.0  # between two looks for what has expired, or was left behind
MAX_WARMED = 32  # prompts read again after a start


class Offered(Protocol):
    """A cache that a model offers to keep."""

    @property
    def id(self) -> str:
        """Of its manifest."""
        ...

    @property
    def tokens(self) -> Tokens:
        """Its token ids."""
        ...

    @property
    def owner(self) -> CacheOwner:
        """What it ends with."""
        ...


class Holder(Protocol):
    """Who else must let go before something counts as forgotten: the model's own writer, caches in other processes."""

    @property
    def queued(self) -> int:
        """Caches that it has yet to write."""
        ...

    async def settle(self) -> None:
        """Return once nothing is found or written any more of what has ended before."""
        ...


class KVKeeper:
    """Over one database and one store. Belongs to one event loop; `ended` is called by the database's writer."""

    def __init__(self, db: MemoryDB, store: KVStore, config: KvConfig, clock: Clock) -> None:
        self.store = store
        self._db = db
        self._config = config
        self._clock = clock
        self.followers = Followers(store.allowed)
        self._holders: list[Holder] = [self.followers]
        self.reports = Reports()
        self._describe: Callable[[], Mapping[str, Any]] = self._of_server
        self._adding: set[str] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._woken = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._warming: asyncio.Task[None] | None = None
        self._cleaning = asyncio.Lock()

    async def start(self) -> None:
        """Make manifests and files agree, and begin to follow."""
        self._loop = asyncio.get_running_loop()
        self._db.follow(self.ended)
        standing = await self._db.read(kv_manifests.standing)
        kept = {one.id for one in standing if one.tokens is None}
        held = await asyncio.to_thread(self.store.index.held_by, kept)
        stray = (await asyncio.to_thread(self.store.index.kept_by)).keys() - kept
        await asyncio.to_thread(self.store.drop, stray)
        await self._db.write(partial(kv_manifests.end, ids=kept - held))
        self.store.allow(held)
        await self._clean()
        self._task = asyncio.create_task(self._run())

    async def aclose(self) -> None:
        """Stop following."""
        self._db.follow(None)
        for task in (self._task, self._warming):
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    def attach(self, holder: Holder) -> None:
        """Have erasures wait for this one, too."""
        self._holders.append(holder)

    def tell_by(self, describe: Callable[[], Mapping[str, Any]]) -> None:
        """Ask the model's side what is kept and why (`mode`, `reason`), for `stats`."""
        self._describe = describe

    def warm_up(self, read_ahead: Callable[[list[int], str], Awaitable[None]], fingerprint: bytes) -> None:
        """Have the model read again what it had read before the start (mode warm), those used last first."""
        self._warming = asyncio.create_task(self._warm_up(read_ahead, fingerprint))

    async def stands(self, owner: CacheOwner) -> bool:
        """Whether there still is what a cache would belong to."""
        return await self._db.read(partial(kv_manifests.is_standing, owner=owner))

    async def bind(self, offer: Offered, fingerprint: bytes, num_tokens: int, num_bytes: int) -> bool:
        """Let the manifest of a cache stand whose chunks are on disk; False if what it belongs to has ended."""
        tokens = None if num_bytes else offer.tokens.astype("<u4").tobytes()
        manifest = Manifest(offer.id, offer.owner, fingerprint, num_tokens, num_bytes, tokens)
        return await self.add(manifest)

    async def add(self, manifest: Manifest) -> bool:
        """Let a manifest stand, if what it belongs to does."""
        self._adding.add(manifest.id)
        try:
            added = await self._db.write(partial(kv_manifests.add, manifest=manifest, now=self._clock.now()))
            if added and manifest.id in self._adding:  # else it has ended already
                self.store.allow([manifest.id])
                await self.followers.tell([manifest.id], stands=True)
            return added
        except StoreError as error:
            complain(logger, "a KV cache was not noted", error)
            return False
        finally:
            self._adding.discard(manifest.id)

    def ended(self, connection: sqlite3.Connection) -> None:
        """After each commit: what it has ended is not found any more."""
        try:
            ids = kv_manifests.gone(connection)
        except sqlite3.Error as error:
            complain(logger, "what has ended could not be read: no KV cache is used any more", error, logging.ERROR)
            self.store.forbid_all()
            return
        if not ids or self._loop is None:
            return
        self.store.forbid(ids)
        for id in ids:
            self._adding.discard(id)
        with suppress(RuntimeError):  # the loop has ended: the next start cleans up
            self._loop.call_soon_threadsafe(self._woken.set)

    async def settle(self) -> None:
        """Return once what has ended is in no file and no other process can find it.

        That includes what a process was keeping when it died. Raises `StoreError` if a file cannot be removed.
        """
        await self.followers.tell(await self._db.read(kv_manifests.gone), stands=False)
        for holder in self._holders:
            await holder.settle()
        await self._bury()
        if not await self._clean():
            raise StoreError(f"a KV cache in {self.store.root} could not be removed; it is not used any more")

    async def purge(self, tenant: str, user: str | None) -> int:
        """End all caches of a user, or of a tenant, and remove them; how many manifests that were."""
        ended = await self._db.write(partial(kv_manifests.end_of, tenant=tenant, user=user))
        await self.settle()
        return ended

    async def verify(self) -> dict[str, int]:
        """Read every chunk, see `kv.report`."""
        return await asyncio.to_thread(report.verify, self.store)

    async def stats(self) -> dict[str, Any]:
        """See `kv.report`."""
        queued = sum(holder.queued for holder in self._holders)
        own = await asyncio.to_thread(report.stats, self.store)
        counted = self.reports.with_own(own)
        return {**self._describe(), "configured": self._config.mode, "queued": queued, **own, **counted}

    def _of_server(self) -> dict[str, Any]:
        if self._config.mode == "warm":
            return {"mode": "off", "reason": "kv.mode = warm is for a model in this process"}
        return self.reports.describe(self._config.server_off)

    async def _run(self) -> None:
        buried = time.monotonic()
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), LOOK_SECONDS)
            self._woken.clear()
            try:
                before = self._clock.now() - timedelta(seconds=self._config.ttl_seconds)
                if await self._db.read(partial(kv_manifests.is_overdue, before=before)):
                    await self._db.write(partial(kv_manifests.expire, before=before))
                if time.monotonic() - buried >= LOOK_SECONDS:
                    await self._bury()
                    buried = time.monotonic()
                await self._clean()
            except LightMemError as error:
                complain(logger, "KV caches could not be cleaned up", error)

    async def _bury(self) -> None:
        """Remove what processes that died had kept and not told us of. Raises `StoreError`."""
        left = await asyncio.to_thread(left_by_dead, self.store)
        if left:  # asked for what stands after that: the last word of a process may have made it stand
            standing = {one.id for one in await self._db.read(kv_manifests.standing)}
            await asyncio.to_thread(self.store.drop, left - standing)

    async def _clean(self) -> bool:
        """Remove the files of what has ended; whether all are gone."""
        async with self._cleaning:
            ids = await self._db.read(kv_manifests.gone)
            await self.followers.tell(ids, stands=False)
            if not ids:
                return await asyncio.to_thread(self.store.sweep)
            if not await asyncio.to_thread(self.store.drop, ids):
                return False
            await self._db.write(partial(kv_manifests.forget_gone, ids=ids))
            return True

    async def _warm_up(self, read_ahead: Callable[[list[int], str], Awaitable[None]], fingerprint: bytes) -> None:
        for manifest, tokens, salt in await self._db.read(partial(kv_manifests.warm, limit=MAX_WARMED)):
            if manifest.fingerprint == fingerprint and await self.stands(manifest.owner):
                try:
                    await read_ahead(tokens, salt)
                except LightMemError as error:
                    complain(logger, "a prompt could not be read again", error)

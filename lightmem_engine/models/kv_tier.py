"""The kept KV caches of one model in this process: found, loaded within a deadline, written behind the answers.

Nothing here fails a request: what cannot be found, read or believed in time is computed.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
import time
import uuid
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from lightmem_engine.kv import keys
from lightmem_engine.kv.choice import Choice, NetBenefit
from lightmem_engine.kv.files import Bytes, Chunk
from lightmem_engine.kv.index import Row
from lightmem_engine.kv.keys import Span, Tokens
from lightmem_engine.kv.match import Found, Place, complete, find_places
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.models.kv_storage import Storage
from lightmem_engine.runtime.complain import complain
from lightmem_engine.types import CacheOwner

logger = logging.getLogger(__name__)

MAX_QUEUED = 8  # caches that wait to be written; each is held in memory meanwhile
PATIENCE = 0.8  # of the time that computing would take, for a load that was expected to be quicker
_GRACE_SECONDS = 0.05  # for a read that hangs in the system past its deadline
_PERSIST = Choice("persist", "")


@dataclass(frozen=True, slots=True)
class Offer:
    """A cache to keep: exactly these tokens of it. `id` names its manifest."""

    id: str
    tokens: Tokens
    cache: Any
    salt: str
    owner: CacheOwner


class Binder(Protocol):
    """Who knows what stands."""

    async def stands(self, owner: CacheOwner) -> bool:
        """Whether there still is what a cache would belong to."""
        ...

    async def bind(self, offer: Offer, fingerprint: bytes, num_tokens: int, num_bytes: int) -> bool:
        """Let the manifest of a cache stand; False if what it belongs to has ended."""
        ...


class KVTier:
    """Belongs to one event loop, where `fetch` runs; `offer` may be called from any thread.

    choice: what is kept; with `warm` token ids, no KV.   fallback: what to change to when loading has cost more than it
    saved for some minutes; None: that is only said.
    """

    def __init__(
        self,
        store: KVStore,
        fingerprint: bytes,
        storage: Storage,
        rates: Rates,
        *,
        chunk_tokens: int,
        min_tokens: int,
        choice: Choice = _PERSIST,
        fallback: Choice | None = None,
    ) -> None:
        self.store = store
        self.fingerprint = fingerprint
        self.rates = rates
        self._storage = storage
        self._chunk_tokens = chunk_tokens
        self._min_tokens = min_tokens
        self.choice = choice
        self.benefit = NetBenefit()
        self.alert = False  # loading has cost more than it saved
        self._fallback = fallback
        self._binder: Binder | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loads: dict[tuple[bytes, bytes], asyncio.Task[list[Chunk]]] = {}
        self._offers: queue.Queue[Offer | Future[None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._write, name="lightmem-kv", daemon=True)

    def start(self, binder: Binder) -> None:
        """Begin to keep what is offered."""
        self._binder, self._loop = binder, asyncio.get_running_loop()
        with suppress(sqlite3.Error):  # whoever looks for a chunk counts the trouble
            self.store.counters.count("fingerprint_mismatches", self.store.index.strangers(self.fingerprint))
        self._thread.start()

    async def aclose(self) -> None:
        """Write what was offered, end the thread. The store is its owner's."""
        if self._thread.is_alive():
            self._offers.put(None)
            await asyncio.to_thread(self._thread.join)
        for load in list(self._loads.values()):
            await asyncio.wait({load})

    async def settle(self) -> None:
        """Wait until everything that was offered before is kept or refused."""
        if self._thread.is_alive():
            barrier: Future[None] = Future()
            self._offers.put(barrier)
            await asyncio.wrap_future(barrier)

    async def fetch(self, tokens: Sequence[int], salt: str, known: int) -> Found | None:
        """Kept chunks for the front of a prompt beyond the `known` tokens that need none, if loading them pays.

        One token is always left to compute.
        """
        counters = self.store.counters
        counters.count("lookups")
        started = time.monotonic()
        if self.choice.mode != "persist":
            return None
        places = await asyncio.to_thread(self.places, tokens[:-1], salt)
        wanted = [place for place in places if place.start + place.take > known]
        if not wanted:
            counters.count("tokens_recomputed", len(tokens) - known)
            return None
        gain = wanted[-1].start + wanted[-1].take - known
        num_bytes = sum(place.row.num_bytes for place in wanted)
        if not self.rates.pays(gain, num_bytes):
            counters.count("loads_skipped")
            counters.count("tokens_recomputed", len(tokens) - known)
            return None
        patience = PATIENCE * self.rates.compute_seconds(gain)
        chunks = await self._load([place.row for place in wanted], started + patience)
        waited = time.monotonic() - started
        found = complete(wanted, chunks, keys.as_tokens(tokens), known)
        reached = known if found is None else found.num_tokens
        counters.count("tokens_recomputed", len(tokens) - reached)
        saved = 0.0 if found is None else self.rates.compute_seconds(reached - known)
        if found is not None:
            counters.count("hits")
            counters.count("hit_tokens", reached - known)
            counters.count("saved_seconds", saved)
        counters.count("waited_seconds", waited)
        self._weigh(saved, waited)
        return found

    def offer(self, tokens: Sequence[int], cache: Any, salt: str, owner: CacheOwner) -> None:
        """Keep a cache that nobody changes any more: its first `len(tokens)` tokens. Returns at once."""
        counters = self.store.counters
        if self.choice.mode == "off":
            counters.count("stores_skipped", reason="off")
        elif len(tokens) < self._min_tokens:
            counters.count("stores_skipped", reason="short")
        elif self.choice.mode == "persist" and not self.rates.pays(len(tokens), self._size(len(tokens))):
            counters.count("stores_skipped", reason="no_gain")
        elif self._offers.qsize() >= MAX_QUEUED:
            counters.count("stores_skipped", reason="queue")
        else:
            self._offers.put(Offer(uuid.uuid4().hex, keys.as_tokens(tokens), cache, salt, owner))

    def places(self, tokens: Sequence[int], salt: str) -> list[Place]:
        """The stored chunks that agree with these tokens from the front. Trouble is nothing found."""
        if self.choice.mode != "persist":
            return []
        try:
            begin = keys.root(salt, self.fingerprint)
            return find_places(self.store, begin, keys.as_tokens(tokens), self._chunk_tokens)
        except sqlite3.Error as error:
            complain(logger, "kept KV caches could not be looked up", error)
            return []

    def describe(self) -> dict[str, Any]:
        """What is kept and why, and how fast this machine is believed to be now."""
        tokens, num_bytes = self.rates.shown()
        speed = {"tokens_per_second": tokens, "bytes_per_second": num_bytes}
        how = {"mode": self.choice.mode, "reason": self.choice.reason, "storage": self._storage.kind}
        return {**how, "costs_more_than_it_saves": self.alert, **speed}

    @property
    def queued(self) -> int:
        """Caches that wait to be written."""
        return self._offers.qsize()

    def _weigh(self, saved: float, waited: float) -> None:
        """Change the mode if loading keeps costing more than it saves."""
        if self.choice.mode != "persist":  # changed while this load was under way
            return
        bad = self.benefit.note(saved, waited)
        if bad and not self.alert:
            why = f"for ten minutes loads have cost {self.benefit.debt:.2g} s more than they saved"
            then = "" if self._fallback is None else f"; kv.mode is {self._fallback.mode} from now on"
            logger.warning("%s%s", why, then)
            if self._fallback is not None:
                self.choice = Choice(self._fallback.mode, why)
        self.alert = bad

    async def _load(self, rows: list[Row], deadline: float) -> list[Chunk]:
        """The chunks from the front that arrive in time. Who wants the same at the same time shares one load, and
        waits for it no longer than for its own."""
        key = rows[0].key, rows[-1].key
        load = self._loads.get(key)
        if load is None:
            load = self._loads[key] = asyncio.ensure_future(asyncio.to_thread(self._read, rows, deadline))
            load.add_done_callback(lambda _: self._loads.pop(key, None))
        left = max(0.0, deadline - time.monotonic()) + _GRACE_SECONDS
        done, _ = await asyncio.wait({load}, timeout=left)
        if not done:
            self.store.counters.count("deadline_misses", reason="hanging")
            return []
        return load.result()

    def _read(self, rows: list[Row], deadline: float) -> list[Chunk]:
        started = time.monotonic()
        chunks, reason = self.store.read(rows, deadline)
        chunks = [self._unpacked(chunk) for chunk in chunks]
        seconds = time.monotonic() - started
        num_bytes = sum(row.num_bytes for row in rows[: len(chunks)])
        if chunks or reason == "deadline":
            self.rates.loaded(num_bytes, seconds)
        return chunks

    def _unpacked(self, chunk: Chunk) -> Chunk:
        return Chunk(chunk.tokens, self._storage.unpack(chunk.payload))

    def _size(self, num_tokens: int) -> int:
        """Payload bytes of so many tokens."""
        whole, rest = divmod(num_tokens, self._chunk_tokens)
        return whole * self._storage.size(self._chunk_tokens) + (self._storage.size(rest) if rest else 0)

    def _write(self) -> None:
        while (item := self._offers.get()) is not None:
            if isinstance(item, Future):
                item.set_result(None)
                continue
            try:
                self._keep(item)
            # Of all kinds: the thread serves everybody, and ends with whatever it lets through; then nothing would be
            # kept any more, and an erasure would wait for it for ever. What it was is counted and logged.
            except Exception as error:  # noqa: BLE001
                self.store.counters.count("errors", reason=type(error).__name__)
                complain(logger, "a KV cache was not kept", error)

    def _keep(self, offer: Offer) -> None:
        assert self._binder is not None
        # Looked up before anything is written, so that an erasure that has answered is not followed by files.
        if not self._wait(self._binder.stands(offer.owner)):
            self.store.counters.count("stores_skipped", reason="ended")
            return
        if self.choice.mode == "off":  # since it was offered
            self.store.counters.count("stores_skipped", reason="off")
            return
        keeps_files = self.choice.mode == "persist"
        num_tokens = self._put(offer) if keeps_files else len(offer.tokens)
        self.store.failpoints.reach("kv.bind")
        num_bytes = self._size(num_tokens) if keeps_files else 0
        if not num_tokens:
            self.store.drop([offer.id])
        elif not self._wait(self._binder.bind(offer, self.fingerprint, num_tokens, num_bytes)):
            self.store.counters.count("stores_skipped", reason="ended")
            self.store.drop([offer.id])

    def _put(self, offer: Offer) -> int:
        """Write the chunks of a cache that are not there yet; how many tokens from the front are kept."""
        spans = keys.spans(keys.root(offer.salt, self.fingerprint), offer.tokens, self._chunk_tokens)

        def fill(span: Span, payload: Bytes) -> None:
            self._storage.pack(offer.cache, span.start, payload)

        kept = self.store.put(
            offer.id,
            offer.owner.scope.tenant,
            self.fingerprint,
            spans,
            lambda span: self._storage.size(len(span.tokens)),
            fill,
            lambda span: self.rates.compute_seconds(len(span.tokens)),
        )
        return sum(len(span.tokens) for span in spans[:kept])

    def _wait(self, asked: Coroutine[Any, Any, bool]) -> bool:
        assert self._loop is not None
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

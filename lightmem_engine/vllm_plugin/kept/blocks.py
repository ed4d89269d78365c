"""The worker's half: whole blocks of the device's cache to chunks on disk, and back.

Blocks are copied as they are, byte for byte: what a block looks like inside is the attention backend's affair. Loads
run beside the steps; a block that could not be loaded is reported, and vLLM computes it.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch

from lightmem_engine.kv.files import Bytes
from lightmem_engine.kv.index import Row
from lightmem_engine.kv.keys import Span, as_tokens
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.runtime.complain import complain
from lightmem_engine.vllm_plugin.kept.balance import Balance
from lightmem_engine.vllm_plugin.kept.block_copies import BlockCopies, Copied
from lightmem_engine.vllm_plugin.kept.link import OwnerLink
from lightmem_engine.vllm_plugin.kept.plan import Load, Save

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 1 << 30  # copied blocks that wait to be written; more are not kept
NUM_LOADERS = 2
PATIENCE = 0.8  # of the time that computing would take


@dataclass(frozen=True, slots=True)
class _Copy:
    """What of `save` was not kept: its keys, and their contents in the same order."""

    save: Save
    keys: tuple[bytes, ...]
    parts: list[Copied]
    num_bytes: int


class BlockMover:
    """Over the caches of one worker: per layer a tensor whose first dimension is the block."""

    def __init__(
        self,
        store: KVStore,
        link: OwnerLink,
        fingerprint: bytes,
        rates: Rates,
        caches: Mapping[str, torch.Tensor],
        block_size: int,
    ) -> None:
        """block_size: tokens of a block."""
        self._store = store
        self._link = link
        self._fingerprint = fingerprint
        self._rates = rates
        self._copies = BlockCopies(list(caches.values()))
        self.block_bytes = self._copies.block_bytes
        self._block_size = block_size
        self._lock = threading.Lock()
        self._done: set[str] = set()
        self._failed: set[int] = set()
        self._loaders = ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="lightmem-kv-load")
        self._saves: queue.Queue[_Copy | threading.Event | None] = queue.Queue()
        self._queued = 0
        self.balance = Balance(rates, store.counters)
        self._writer = threading.Thread(target=self._write, name="lightmem-kv-write", daemon=True)
        self._writer.start()

    def load(self, load: Load) -> None:
        """Begin to fill blocks; `finished` says when, `failed` which could not be."""
        self._loaders.submit(self._load, load, self._copies.now())

    def save(self, save: Save) -> None:
        """Copy what is not kept yet, as the steps so far leave it, and write it later."""
        try:
            wanted = {
                key: block
                for key, block in zip(save.keys, save.blocks, strict=True)
                if self._store.index.ready(key) is None
            }
        except sqlite3.Error as error:
            complain(logger, "kept KV caches could not be looked up", error)
            return
        num_bytes = len(wanted) * self.block_bytes
        if self._queued + num_bytes > MAX_QUEUED_BYTES:
            self._store.counters.count("stores_skipped", reason="queue")
            return
        try:
            parts = self._copies.take(list(wanted.values()))
        except RuntimeError as error:  # no memory to copy into: the step goes on, and nothing is kept of it
            self._store.counters.count("stores_skipped", reason="memory")
            complain(logger, "KV blocks could not be copied", error)
            return
        self._queued += num_bytes
        self._saves.put(_Copy(save, tuple(wanted), parts, num_bytes))

    def finished(self) -> set[str]:
        """Requests whose loads have ended, well or not, since the last call."""
        with self._lock:
            done, self._done = self._done, set()
            return done

    def failed(self) -> set[int]:
        """Blocks that could not be loaded, since the last call."""
        with self._lock:
            failed, self._failed = self._failed, set()
            return failed

    def settle(self) -> None:
        """Return once everything that was copied before is kept or refused."""
        barrier = threading.Event()
        self._saves.put(barrier)
        barrier.wait()

    def close(self) -> None:
        """Write what was copied, end the threads."""
        self._saves.put(None)
        self._writer.join()
        self._loaders.shutdown()

    def _load(self, load: Load, ready: Any) -> None:
        num_loaded = 0
        try:
            rows = self._rows(load.keys)
            patience = PATIENCE * self._rates.compute_seconds(len(load.keys) * self._block_size)
            started = time.monotonic()
            chunks, reason = self._store.read(rows, started + patience)
            whole = [
                *itertools.takewhile(lambda content: len(content) == self.block_bytes, (c.payload for c in chunks))
            ]
            self._copies.put(load.blocks[: len(whole)], whole, ready)
            num_loaded = len(whole)
            if rows:
                waited = time.monotonic() - started
                # What was damaged from the start says nothing of the disk's speed; nor is a slow disk one of no speed
                # at all, or it would never be tried again.
                if num_loaded or reason == "deadline":
                    num_bytes = sum(row.num_bytes for row in rows[:num_loaded])
                    self._rates.loaded(max(self.block_bytes, num_bytes), waited)
                self.balance.loaded(num_loaded * self._block_size, waited)
        # Of all kinds: a request whose load never ends would wait for ever; its blocks are computed instead. What it
        # was is counted and logged.
        except Exception as error:  # noqa: BLE001
            self._store.counters.count("errors", reason=type(error).__name__)
            complain(logger, "kept KV blocks could not be loaded", error)
        finally:
            with self._lock:
                self._failed.update(load.blocks[num_loaded:])
                self._done.add(load.request)

    def _rows(self, keys: Sequence[bytes]) -> list[Row]:
        rows = []
        for key in keys:
            found = self._store.index.ready(key)
            if found is None:
                break
            rows.append(found[0])
        return rows

    def _write(self) -> None:
        while (item := self._saves.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            try:
                rows = itertools.chain.from_iterable(part.rows() for part in item.parts)
                self._keep(item.save, dict(zip(item.keys, rows, strict=True)))
            # Of all kinds: the thread serves everybody, and an erasure waits for it. What it was is counted and logged.
            except Exception as error:  # noqa: BLE001
                self._store.counters.count("errors", reason=type(error).__name__)
                complain(logger, "a KV cache was not kept", error)
            finally:
                self._queued -= item.num_bytes

    def _keep(self, save: Save, contents: Mapping[bytes, Bytes]) -> None:
        # Asked before anything is written, so that an erasure that has answered is not followed by files.
        if not self._link.stands(save.owner):
            self._store.counters.count("stores_skipped", reason="ended")
            return
        parent = hashlib.sha256(self._fingerprint).digest()
        spans = []
        for place, key in enumerate(save.keys):
            if key not in contents and self._store.index.ready(key) is None:
                break  # it was kept when the others were copied, and has gone since
            spans.append(Span(key, parent, place, as_tokens([])))
            parent = key

        def fill(span: Span, payload: Bytes) -> None:
            payload[:] = contents[span.key]

        kept = self._store.put(
            save.manifest,
            str(save.owner.get("tenant", "")),
            self._fingerprint,
            spans,
            lambda _: self.block_bytes,
            fill,
            lambda _: self._rates.compute_seconds(self._block_size),
        )
        manifest = {
            "id": save.manifest,
            "owner": save.owner,
            "fingerprint": self._fingerprint.hex(),
            "num_tokens": max(1, kept * self._block_size),
            "num_bytes": max(1, kept * self.block_bytes),
        }
        if not kept or not self._link.bind(manifest):
            self._store.drop([save.manifest])

"""The worker's half: whole blocks of the device's cache to chunks on disk, and back.

Blocks are copied as they are, byte for byte: what a block looks like inside is the attention backend's affair. Loads
run beside the steps; a block that could not be loaded is reported, and vLLM computes it.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from lightmem_engine.kv.files import Bytes
from lightmem_engine.kv.index import Row
from lightmem_engine.kv.keys import Span, as_tokens
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.runtime.complain import complain
from lightmem_engine.vllm_plugin.connector_link import OwnerLink
from lightmem_engine.vllm_plugin.connector_plan import Load, Save

logger = logging.getLogger(__name__)

MAX_QUEUED_BYTES = 1 << 30  # copied blocks that wait to be written; more are not kept
NUM_LOADERS = 2
PATIENCE = 0.8  # of the time that computing would take


class BlockMover:
    """Over the caches of one worker: per layer a tensor whose first dimension is the block."""

    def __init__(
        self, store: KVStore, link: OwnerLink, fingerprint: bytes, rates: Rates, caches: Mapping[str, torch.Tensor]
    ) -> None:
        self._store = store
        self._link = link
        self._fingerprint = fingerprint
        self._rates = rates
        self._caches = list(caches.values())
        self._sizes = [cache[0].numel() * cache.element_size() for cache in self._caches]
        self.block_bytes = sum(self._sizes)
        self._lock = threading.Lock()
        self._done: set[str] = set()
        self._failed: set[int] = set()
        self._loaders = ThreadPoolExecutor(NUM_LOADERS, thread_name_prefix="lightmem-kv-load")
        self._saves: queue.Queue[tuple[Save, dict[bytes, Bytes]] | threading.Event | None] = queue.Queue()
        self._queued = 0
        self._writer = threading.Thread(target=self._write, name="lightmem-kv-write", daemon=True)
        self._writer.start()

    def load(self, load: Load, block_size: int) -> None:
        """Begin to fill blocks; `finished` says when, `failed` which could not be."""
        ready = _event(self._caches[0])
        self._loaders.submit(self._load, load, block_size, ready)

    def save(self, save: Save) -> None:
        """Copy what is not kept yet, now, and write it later."""
        contents: dict[bytes, Bytes] = {}
        try:
            wanted = [
                (key, block)
                for key, block in zip(save.keys, save.blocks, strict=True)
                if self._store.index.ready(key) is None
            ]
        except sqlite3.Error as error:
            complain(logger, "kept KV caches could not be looked up", error)
            return
        if self._queued + len(wanted) * self.block_bytes > MAX_QUEUED_BYTES:
            self._store.counters.count("stores_skipped", reason="queue")
            return
        for key, block in wanted:
            contents[key] = self._copied(block)
        self._queued += len(contents) * self.block_bytes
        self._saves.put((save, contents))

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

    def _load(self, load: Load, block_size: int, ready: Any) -> None:
        num_loaded = 0
        try:
            rows = self._rows(load.keys)
            patience = PATIENCE * self._rates.compute_seconds(len(load.keys) * block_size)
            started = time.monotonic()
            chunks, _ = self._store.read(rows, started + patience)
            for block, chunk in zip(load.blocks, chunks, strict=False):
                if len(chunk.payload) != self.block_bytes:
                    break
                self._fill(block, chunk.payload, ready)
                num_loaded += 1
            if rows:
                self._rates.loaded(sum(row.num_bytes for row in rows[:num_loaded]), time.monotonic() - started)
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

    def _copied(self, block: int) -> Bytes:
        content = np.empty(self.block_bytes, np.uint8)
        at = 0
        for cache, size in zip(self._caches, self._sizes, strict=True):
            part = cache[block].contiguous().view(-1).view(torch.uint8)
            torch.from_numpy(content[at : at + size]).copy_(part)
            at += size
        return content

    def _fill(self, block: int, content: Bytes, ready: Any) -> None:
        with _side_stream(self._caches[0], ready):
            at = 0
            for cache, size in zip(self._caches, self._sizes, strict=True):
                target = cache[block]
                part = torch.from_numpy(content[at : at + size]).view(cache.dtype).view(target.shape)
                target.copy_(part)
                at += size

    def _write(self) -> None:
        while (item := self._saves.get()) is not None:
            if isinstance(item, threading.Event):
                item.set()
                continue
            save, contents = item
            try:
                self._keep(save, contents)
            # Of all kinds: the thread serves everybody, and an erasure waits for it. What it was is counted and logged.
            except Exception as error:  # noqa: BLE001
                self._store.counters.count("errors", reason=type(error).__name__)
                complain(logger, "a KV cache was not kept", error)
            finally:
                self._queued -= len(contents) * self.block_bytes

    def _keep(self, save: Save, contents: Mapping[bytes, Bytes]) -> None:
        # Asked before anything is written, so that an erasure that has answered is not followed by files.
        if not self._link.stands(save.owner):
            self._store.counters.count("stores_skipped", reason="ended")
            return
        parent = hashlib.sha256(self._fingerprint).digest()
        spans = []
        for place, key in enumerate(save.keys):
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
            lambda _: self._rates.compute_seconds(1),
        )
        manifest = {
            "id": save.manifest,
            "owner": save.owner,
            "fingerprint": self._fingerprint.hex(),
            "num_tokens": max(1, kept),
            "num_bytes": max(1, kept * self.block_bytes),
        }
        if not kept or not self._link.bind(manifest):
            self._store.drop([save.manifest])


def _event(cache: torch.Tensor) -> Any:
    """What a copy from another thread must come after: what the device has been given so far."""
    if cache.device.type != "cuda":
        return None
    cuda: Any = torch.cuda  # its events and streams are not typed
    event = cuda.Event()
    event.record()
    return event


class _side_stream:
    """On CUDA: a stream of its own behind `ready`, finished when the context ends. Elsewhere nothing."""

    def __init__(self, cache: torch.Tensor, ready: Any) -> None:
        cuda: Any = torch.cuda
        self._stream = cuda.Stream(cache.device) if ready is not None else None
        self._ready = ready
        self._context: Any = None

    def __enter__(self) -> None:
        if self._stream is not None:
            self._stream.wait_event(self._ready)
            self._context = torch.cuda.stream(self._stream)
            self._context.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self._stream is not None:
            self._context.__exit__(*error)
            self._stream.synchronize()

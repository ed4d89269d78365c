"""`KVStore`: chunks in files, their index, bounds, and who may still be read.

Whatever goes wrong here is a miss or a chunk that is not kept; nothing is raised at whoever answers a chat. What may be
read is decided elsewhere: `memory.db` says which manifests stand, and `allow` and `forbid` carry it here. A chunk that
no standing manifest holds is not found, whatever lies on the disk.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import shutil
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lightmem_engine.errors import StoreError
from lightmem_engine.kv import files as kv_files
from lightmem_engine.kv.counters import Counters
from lightmem_engine.kv.files import Bytes, Chunk, ChunkFiles, Damaged, Overdue
from lightmem_engine.kv.index import Bounds, Index, Row
from lightmem_engine.kv.keys import Span
from lightmem_engine.kv.recovery import closing_on_failure, open_index, recover
from lightmem_engine.kv.writers import Writer
from lightmem_engine.runtime.complain import complain
from lightmem_engine.runtime.failpoints import Failpoints

logger = logging.getLogger(__name__)

HIGH, LOW = 0.9, 0.8  # eviction begins above one share of the cap and ends below the other
PAUSE_SECONDS = 60.0  # without writes, after the disk was full
EMERGENCY_CHUNKS = 16  # that go then
LEASE_SECONDS = 60.0  # a chunk that is being read is not evicted
Fill = Callable[[Span, Bytes], None]


@dataclass(slots=True)
class KVStore:
    """Thread-safe; several processes may open the same directory. Close with `close`.

    Raises `StoreError` if the directory cannot be used at all.
    """

    root: Path
    bounds: Bounds
    sync: bool = False
    failpoints: Failpoints = field(default_factory=Failpoints)
    now: Callable[[], float] = time.time
    free_bytes: Callable[[Path], int] = lambda path: shutil.disk_usage(path).free
    counters: Counters = field(default_factory=Counters)
    files: ChunkFiles = field(init=False)
    index: Index = field(init=False)
    _writer: Writer = field(init=False)
    _allowed: set[str] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _paused_until: float = 0.0
    _drafts: Iterator[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        try:
            self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root.chmod(0o700)
            self.files = ChunkFiles(self.root, sync=self.sync)
            self._writer = Writer(self.root)
            self.index = open_index(self.root, self.counters)
            with closing_on_failure(self.index):
                recover(self.root, self.index, self.files, self.counters, self.failpoints)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"KV caches cannot be kept in {self.root}: {error}") from error

    def close(self) -> None:
        """Let go of the directory."""
        self.index.close()
        self._writer.close()

    def draft(self, name: str) -> Path:
        """A temporary file of this process; the next start removes what it leaves behind when it dies."""
        return self.files.temporary / f"{self._writer.id}-{name}"

    def allow(self, manifests: Iterable[str]) -> None:
        """These manifests stand."""
        with self._lock:
            self._allowed.update(manifests)

    def forbid(self, manifests: Iterable[str]) -> None:
        """They do not any more: from now on nothing of them is found. Their bytes go with `drop`."""
        with self._lock:
            self._allowed.difference_update(manifests)

    def forbid_all(self) -> None:
        """Nothing stands, as far as anybody knows."""
        with self._lock:
            self._allowed.clear()

    def allowed(self) -> list[str]:
        """The manifests that stand."""
        with self._lock:
            return sorted(self._allowed)

    def find(self, key: bytes) -> Row | None:
        """A chunk that may be read. No bytes are touched."""
        try:
            found = self.index.ready(key)
        except sqlite3.Error as error:
            self._missed(error)
            return None
        if found is None:
            return None
        with self._lock:
            return found[0] if not self._allowed.isdisjoint(found[1]) else None

    def read(self, rows: Sequence[Row], deadline: float) -> tuple[list[Chunk], str]:
        """The verified chunks from the front, and why they are not all: a word, or nothing.

        deadline: on the monotonic clock; past it reading stops with what there is.
        """
        chunks: list[Chunk] = []
        started = time.perf_counter()
        num_bytes = 0
        reason = ""
        try:
            self.index.touch([row.key for row in rows], self.now(), self.now() + LEASE_SECONDS)
            for row in rows:
                chunks.append(self.files.read(row.key, row.fingerprint, row.num_bytes, row.digest, deadline))
                num_bytes += row.num_bytes
        except Damaged as damage:
            reason = str(damage)
            self.counters.count("verification_failures", reason=reason)
            self._discard(rows[len(chunks)].key)
        except Overdue:
            reason = "deadline"
            self.counters.count("deadline_misses")
        except (OSError, sqlite3.Error) as error:
            reason = "io"
            self._missed(error)
        self.counters.count("bytes_read", num_bytes)
        self.counters.took("load", time.perf_counter() - started)
        return chunks, reason

    def put(
        self,
        manifest: str,
        tenant: str,
        fingerprint: bytes,
        spans: Sequence[Span],
        sizes: Callable[[Span], int],
        fill: Fill,
        seconds: Callable[[Span], float],
    ) -> int:
        """Keep the chunks of one chain under a manifest; returns how many of them from the front are kept now.

        sizes: payload bytes of a chunk.   fill: writes them, uint8 [n].   seconds: what computing it again would cost.
        """
        started = time.perf_counter()
        kept = 0
        for span in spans:
            reason = self._put(manifest, tenant, fingerprint, span, sizes(span), fill, seconds(span))
            if reason:
                self.counters.count("stores_skipped", reason=reason)
                break
            kept += 1
        if kept:
            self.counters.count("stores")
            self.counters.took("store", time.perf_counter() - started)
        return kept

    def drop(self, manifests: Iterable[str]) -> bool:
        """Nobody wants these manifests any more: what they alone hold is removed. False if some of it could not be;
        `sweep` tries again."""
        manifests = list(manifests)
        self.forbid(manifests)
        try:
            self.index.release(manifests)
        except sqlite3.Error as error:
            self._missed(error)
            return False
        return self.sweep()

    def sweep(self) -> bool:
        """Remove the files of dead chunks; whether none is left."""
        try:
            dead = self.index.dead()
            removed = [key for key in dead if self.files.unlink(key)]
            self.failpoints.reach("kv.evict")
            if removed:
                self.index.abandon(removed)
        except sqlite3.Error as error:
            self._missed(error)
            return False
        return len(removed) == len(dead)

    def make_room(self, num_bytes: int, tenant: bytes | None = None, reason: str = "bounds") -> None:
        """Evict what is worth least until `num_bytes` are gone."""
        chosen = self.index.condemn(num_bytes, tenant, self.now())
        self.counters.count("evictions", len(chosen), reason=reason)
        self.sweep()

    def _put(
        self, manifest: str, tenant: str, fingerprint: bytes, span: Span, size: int, fill: Fill, seconds: float
    ) -> str:
        """Why the chunk is not kept; nothing if it is."""
        if self.now() < self._paused_until:
            return "disk_full"
        num_bytes = kv_files.payload_offset(len(span.tokens)) + size
        tag = hashlib.sha256(tenant.encode()).digest()[:16]
        try:
            refusal = self._reserve(manifest, tag, fingerprint, span, num_bytes, seconds)
            if refusal is not None:
                return refusal
        except (OSError, sqlite3.Error) as error:
            self._missed(error)
            if kv_files.is_full(error):
                self._relieve(num_bytes)
            return "index"
        try:
            self.failpoints.reach("kv.reserve")
            content = kv_files.blank(span, fingerprint, size)
            fill(span, content[len(content) - size :])
            self.files.write(span.key, content, self.draft(str(next(self._drafts))), self.failpoints.reach)
            self.failpoints.reach("kv.renamed")
            if not self.index.finish(span.key, kv_files.digest(content)):
                self.sweep()
                return "ended"
            self.failpoints.reach("kv.commit")
            self.counters.count("bytes_written", num_bytes)
        except (OSError, sqlite3.Error) as error:
            self._discard(span.key)
            if kv_files.is_full(error):
                self._relieve(num_bytes)
                return "disk_full"
            self._missed(error)
            return "io"
        except BaseException:  # what filled it failed, or the process is ending: the charge must not stay. Raised on
            self._discard(span.key)
            raise
        return ""

    def _reserve(
        self, manifest: str, tenant: bytes, fingerprint: bytes, span: Span, num_bytes: int, seconds: float
    ) -> str | None:
        """None if the chunk is to be written; otherwise why not, which is nothing if it is there already."""
        caps, now = self.bounds.caps, self.now()
        if num_bytes > caps.tenant:
            return "too_large"
        if self.free_bytes(self.root) - num_bytes < self.bounds.min_free:
            self.make_room(num_bytes, reason="free_space")
            if self.free_bytes(self.root) - num_bytes < self.bounds.min_free:
                return "free_space"
        for last in (False, True):
            found = self.index.reserve(
                span, fingerprint, tenant, manifest, num_bytes, seconds, caps, self._writer.id, now
            )
            if found == "reserved":
                return None
            if found == "held":
                return ""
            if found == "busy" or last:
                return found
            if found == "tenant_full":
                self.make_room(self.index.used(tenant) + num_bytes - int(LOW * caps.tenant), tenant)
            else:
                self.make_room(self.index.used() + num_bytes - int(LOW * caps.total))
        return "full"

    def _relieve(self, num_bytes: int) -> None:
        """The disk is full: no writes for a while, and some chunks go. Where not even the index can be written their
        files go first; until their rows can follow they are misses."""
        self._paused_until = self.now() + PAUSE_SECONDS
        try:
            self.make_room(max(num_bytes, int(self.bounds.total * (1 - LOW)) // 2), reason="disk_full")
        except sqlite3.Error:
            removed = [key for key in self.index.cheapest(EMERGENCY_CHUNKS) if self.files.unlink(key)]
            self.counters.count("evictions", len(removed), reason="disk_full")
            with suppress(sqlite3.Error):
                self.index.abandon(removed)

    def _discard(self, key: bytes) -> None:
        """Forget one chunk: first the row, so that nobody finds it, then the file."""
        try:
            self.index.abandon([key])
        except sqlite3.Error as error:
            self._missed(error)
        self.files.unlink(key)

    def _missed(self, error: Exception) -> None:
        self.counters.count("errors", reason=type(error).__name__)
        complain(logger, "the KV store could not be used", error)

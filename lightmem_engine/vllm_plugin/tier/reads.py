"""From chunks on disk to rows of vLLM's host cache, beside the scheduler, which is never kept waiting.

What is read is verified before a byte of it reaches a row. A load that takes longer than computing would is given up at
its deadline, even if the disk does not answer at all; from then on nothing is written into its rows any more.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from lightmem_engine.kv.files import Bytes, digest
from lightmem_engine.kv.index import Row
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.runtime.complain import complain
from lightmem_engine.vllm_plugin.kept.balance import Balance
from lightmem_engine.vllm_plugin.kept.blocks import PATIENCE
from lightmem_engine.vllm_plugin.tier.requests import Asked

logger = logging.getLogger(__name__)

NUM_READERS = 8
AT_ONCE = 8  # chunks between two looks at whether the load is still wanted
_SAMPLE_BYTES = 4 << 20
GRACE_SECONDS = 0.05  # past the deadline, for a reader to notice it by itself


@dataclass(frozen=True, slots=True)
class Wanted:
    """One chunk of a load: vLLM's key, the row on disk, the row of the host cache."""

    key: bytes
    row: Row
    slot: int


@dataclass(slots=True, eq=False)
class _Load:
    job: int
    wanted: Sequence[Wanted]
    deadline: float
    began: float
    parts: int
    lock: threading.Lock = field(default_factory=threading.Lock)
    copying: int = 0
    is_over: bool = False
    good: list[Wanted] = field(default_factory=list)

    def enter(self) -> bool:
        """Whether a copy into the rows may begin."""
        with self.lock:
            if not self.is_over:
                self.copying += 1
            return not self.is_over

    def leave(self, copied: Sequence[Wanted]) -> None:
        """The copy is done."""
        with self.lock:
            self.copying -= 1
            self.good.extend(copied)

    def end_part(self) -> bool:
        """Whether this was the last one, of a load that somebody still waits for."""
        with self.lock:
            self.parts -= 1
            if self.parts or self.is_over:
                return False
            self.is_over = True
            return True

    def give_up(self, now: float) -> bool:
        """Whether the load is given up now: past its deadline, with no copy under way."""
        with self.lock:
            if self.is_over or self.copying or now < self.deadline + GRACE_SECONDS:
                return False
            self.is_over = True
            return True


class TierReader:
    """`done` is called with a job and the keys that were loaded, from whatever thread. rows: uint8 [num, bytes]."""

    def __init__(
        self,
        store: KVStore,
        rates: Rates,
        rows: Bytes,
        chunk_tokens: int,
        min_tokens: int,
        done: Callable[[int, list[bytes], bool], None],
    ) -> None:
        self._store = store
        self._rates = rates
        self._rows = rows
        self._chunk_tokens = chunk_tokens
        self._min_tokens = min_tokens
        self._done = done
        self.balance = Balance(rates, store.counters)
        self._searcher = ThreadPoolExecutor(1, thread_name_prefix="lightmem-tier-look")
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="lightmem-tier-read")
        self._lock = threading.Lock()
        self._running: set[_Load] = set()

    def measure(self) -> float:
        """Bytes a second of reading and checking as `load` does, from the disk as far as the system lets one have it.

        Raises `OSError`.
        """
        sample = np.random.default_rng(0).integers(0, 256, _SAMPLE_BYTES, np.uint8)
        paths = [self._store.draft(f"sample-{n}") for n in range(NUM_READERS)]
        try:
            for path in paths:
                with path.open("wb") as file:
                    file.write(sample.data)
                    file.flush()
                    os.fsync(file.fileno())
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            started = time.perf_counter()
            for _ in self._readers.map(_read_sample, paths):
                pass
            return NUM_READERS * _SAMPLE_BYTES / (time.perf_counter() - started)
        finally:
            for path in paths:
                path.unlink(missing_ok=True)

    def search(self, asked: Asked, first: int) -> None:
        """Find out what of a request's chunks from `first` on can be loaded and is worth it; `asked.result` says so."""
        self._searcher.submit(self._search, asked, first)

    def load(self, job: int, wanted: Sequence[Wanted], num_asked: int) -> None:
        """Begin a load. num_asked: chunks of the job; if there are more than wanted ones, it has failed in any case."""
        now = time.monotonic()
        patience = PATIENCE * self._rates.compute_seconds(len(wanted) * self._chunk_tokens)
        size = max(1, -(-len(wanted) // NUM_READERS))
        parts = _split(wanted, size)
        load = _Load(job, wanted, now + patience, now, len(parts))
        if not parts:
            self._done(job, [], num_asked == 0)
            return
        with self._lock:
            self._running.add(load)
        for part in parts:
            self._readers.submit(self._read, load, part, num_asked)

    def give_up_overdue(self) -> None:
        """End the loads that are past their deadlines."""
        now = time.monotonic()
        with self._lock:
            running = list(self._running)
        for load in running:
            if load.give_up(now):
                self._store.counters.count("deadline_misses")
                self._end(load, len(load.wanted) + 1, is_overdue=True)

    def close(self) -> None:
        """End the threads; what is being read is read to its end."""
        self._searcher.shutdown(cancel_futures=True)
        self._readers.shutdown(cancel_futures=True)
        self._rows = self._rows[:0].copy()  # a view would hold on to the host cache

    def _search(self, asked: Asked, first: int) -> None:
        found: dict[int, Row] = {}
        try:
            num_bytes = 0
            for place in range(first, len(asked.keys)):
                row = self._store.find(asked.keys[place])
                if row is None:
                    break
                found[place] = row
                num_bytes += row.num_bytes
            tokens = len(found) * self._chunk_tokens
            self._store.counters.count("lookups")
            if tokens and tokens < self._min_tokens:
                found = {}
            elif tokens and not self._rates.pays(tokens, num_bytes):
                found = {}
                self._store.counters.count("loads_skipped", reason="slower")
        # Of all kinds: the request waits for an answer, and this one is a miss. What it was is counted and logged.
        except Exception as error:  # noqa: BLE001
            found = {}
            self._store.counters.count("errors", reason=type(error).__name__)
            complain(logger, "kept KV caches could not be looked up", error)
        asked.result = found

    def _read(self, load: _Load, part: Sequence[Wanted], num_asked: int) -> None:
        try:
            for some in _split(part, AT_ONCE):
                chunks, _ = self._store.read([one.row for one in some], load.deadline)
                if not load.enter():
                    break
                copied: list[Wanted] = []
                try:
                    for one, chunk in zip(some, chunks, strict=False):
                        if len(chunk.payload) != self._rows.shape[1]:
                            break
                        self._rows[one.slot] = chunk.payload
                        copied.append(one)
                finally:
                    load.leave(copied)
                if len(copied) < len(some):
                    break
        # Of all kinds: a load that never ends would hold its request for ever. What it was is counted and logged.
        except Exception as error:  # noqa: BLE001
            self._store.counters.count("errors", reason=type(error).__name__)
            complain(logger, "kept KV chunks could not be loaded", error)
        finally:
            if load.end_part():
                self._end(load, num_asked)

    def _end(self, load: _Load, num_asked: int, *, is_overdue: bool = False) -> None:
        with self._lock:
            self._running.discard(load)
        good = list(load.good)
        num_bytes, waited = sum(one.row.num_bytes for one in good), time.monotonic() - load.began
        if num_bytes or is_overdue:  # what was damaged from the start says nothing of the disk's speed
            self._rates.loaded(max(num_bytes, load.wanted[0].row.num_bytes), waited)
        self.balance.loaded(len(good) * self._chunk_tokens, waited)
        if good:
            self._store.counters.count("hits")
            self._store.counters.count("hit_tokens", len(good) * self._chunk_tokens)
        self._done(load.job, [one.key for one in good], len(good) == num_asked)


def _read_sample(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        content = np.empty(_SAMPLE_BYTES, np.uint8)
        file.readinto(content.data)
        digest(content)


def _split(wanted: Sequence[Wanted], size: int) -> list[Sequence[Wanted]]:
    return [wanted[at : at + size] for at in range(0, len(wanted), size)]

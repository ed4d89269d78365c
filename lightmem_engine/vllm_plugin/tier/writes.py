"""From rows of vLLM's host cache to chunks on disk, in a thread of its own.

vLLM hands a prompt over piece by piece, as it is computed. The owner is told of the manifest before the first byte is
written, so that it can end what is there in part, even if this process has been killed; every further piece is preceded
by the question whether it may still be kept. An erasure that has answered is not followed by files.
"""

from __future__ import annotations

import hashlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lightmem_engine.kv.files import Bytes
from lightmem_engine.kv.keys import Span, as_tokens
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.runtime.complain import complain
from lightmem_engine.vllm_plugin.kept.link import OwnerLink
from lightmem_engine.vllm_plugin.tier.requests import Asked

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Piece:
    """rows: place in the prompt and row of the host cache of each chunk."""

    job: int
    asked: Asked
    rows: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class _Last:
    """No more pieces of this request follow."""

    asked: Asked


@dataclass(slots=True)
class _Kept:
    """places: of the chunks that are kept of a request.   is_bound: whether the owner knows.   is_ended: whether it has
    ended, or was refused."""

    asked: Asked
    places: set[int] = field(default_factory=set)
    is_bound: bool = False
    is_ended: bool = False


class TierWriter:
    """`done` is called with a job that needs its rows no more, and whether nothing went wrong. rows: uint8 [num, n]."""

    def __init__(
        self,
        store: KVStore,
        link: OwnerLink,
        fingerprint: bytes,
        rates: Rates,
        rows: Bytes,
        chunk_tokens: int,
        done: Callable[[int, list[bytes], bool], None],
    ) -> None:
        self._store = store
        self._link = link
        self._fingerprint = fingerprint
        self._rates = rates
        self._rows = rows
        self._chunk_tokens = chunk_tokens
        self._done = done
        self._max_queued = rows.nbytes // 2  # rows that wait to be written are lost to vLLM until they are
        self._queue: queue.Queue[_Piece | _Last | threading.Event | None] = queue.Queue()
        self._lock = threading.Lock()
        self._queued = 0
        self._kept: dict[str, _Kept] = {}
        self._is_anew = False
        self._thread = threading.Thread(target=self._run, name="lightmem-tier-write", daemon=True)
        self._thread.start()

    def keep(self, job: int, asked: Asked, rows: Sequence[tuple[int, int]]) -> bool:
        """Write chunks later; the rows stay as they are until `done`.

        False if too much waits already; what comes to an empty queue is always taken.
        """
        size = len(rows) * self._rows.shape[1]
        with self._lock:
            if self._queued and self._queued + size > self._max_queued:
                return False
            self._queued += size
        self._queue.put(_Piece(job, asked, sorted(rows)))
        return True

    def end(self, asked: Asked) -> None:
        """No more of this request follows."""
        self._queue.put(_Last(asked))

    def forbid(self, manifests: Iterable[str]) -> None:
        """These have ended, whatever of them is still to come."""
        for manifest in manifests:
            kept = self._kept.get(manifest)
            if kept is not None:
                kept.is_ended = True

    def forget(self) -> None:
        """What stands will be told anew; what of it is not among that by the next `settle` has ended."""
        self._is_anew = True

    def settle(self) -> None:
        """Return once everything that came before is kept or refused, and nothing is left of what has ended."""
        barrier = threading.Event()
        self._queue.put(barrier)
        barrier.wait()

    def close(self) -> None:
        """Write what waits, end the thread."""
        self._queue.put(None)
        self._thread.join()
        self._rows = self._rows[:0].copy()  # a view would hold on to the host cache

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            is_good = False
            try:
                if isinstance(item, threading.Event):
                    self._drop_ended()
                elif isinstance(item, _Piece):
                    self._write(item)
                else:
                    self._finish(item.asked)
                is_good = True
            # Of all kinds: the thread serves everybody, and an erasure waits for it. What it was is counted and logged.
            except Exception as error:  # noqa: BLE001
                self._store.counters.count("errors", reason=type(error).__name__)
                complain(logger, "a KV cache was not kept", error)
            finally:
                if isinstance(item, threading.Event):
                    item.set()
                if isinstance(item, _Piece):
                    with self._lock:
                        self._queued -= len(item.rows) * self._rows.shape[1]
                    self._done(item.job, [], is_good)

    def _write(self, piece: _Piece) -> None:
        asked = piece.asked
        assert asked.owner is not None
        kept = self._kept.setdefault(asked.manifest, _Kept(asked))
        if not kept.is_bound and not kept.is_ended:
            kept.is_bound = self._bind(asked)
        elif not kept.is_ended and len(kept.places) == len(asked.keys):
            return  # computed again, after it had to make way for others
        kept.is_ended |= not kept.is_bound or not self._link.stands(asked.owner)
        if kept.is_ended:
            self._store.counters.count("stores_skipped", reason="ended")
            return
        self._put(asked, kept, dict(piece.rows))

    def _drop_ended(self) -> None:
        """The owner drops what it has ended; what was being written meanwhile is dropped here."""
        standing = set(self._store.allowed()) if self._is_anew else None
        self._is_anew = False
        for manifest, kept in self._kept.items():
            if standing is not None and kept.is_bound and manifest not in standing:
                kept.is_ended = True
            if kept.is_ended:
                self._store.drop([manifest])

    def _finish(self, asked: Asked) -> None:
        kept = self._kept.pop(asked.manifest, None)
        if kept is None:
            return
        if not kept.is_ended:
            self._hold(asked, kept)
        if kept.is_ended or not kept.places:
            self._store.drop([asked.manifest])

    def _hold(self, asked: Asked, kept: _Kept) -> None:
        """Chunks of the prompt that vLLM did not hand over are held where another cache has kept them."""
        missing = [place for place in range(len(asked.keys)) if place not in kept.places]
        try:
            there = [place for place in missing if self._store.index.ready(asked.keys[place]) is not None]
        except sqlite3.Error as error:
            complain(logger, "kept KV caches could not be looked up", error)
            return
        self._put(asked, kept, dict.fromkeys(there))

    def _put(self, asked: Asked, kept: _Kept, slots: Mapping[int, int | None]) -> None:
        assert asked.owner is not None
        places = {asked.keys[place]: place for place in slots}
        spans = [self._span(asked, place) for place in sorted(slots)]

        def fill(span: Span, payload: Bytes) -> None:
            slot = slots[places[span.key]]
            if slot is None:  # it was there a moment ago, and has been evicted since
                raise KeyError("a chunk to hold is gone")
            payload[:] = self._rows[slot]

        count = self._store.put(
            asked.manifest,
            str(asked.owner.get("tenant", "")),
            self._fingerprint,
            spans,
            lambda _: self._rows.shape[1],
            fill,
            lambda _: self._rates.compute_seconds(self._chunk_tokens),
        )
        kept.places.update(places[span.key] for span in spans[:count])

    def _bind(self, asked: Asked) -> bool:
        """Whether the owner will have it. It is told of the whole prompt: most come to that."""
        return self._link.bind(
            {
                "id": asked.manifest,
                "owner": asked.owner,
                "fingerprint": self._fingerprint.hex(),
                "num_tokens": len(asked.keys) * self._chunk_tokens,
                "num_bytes": len(asked.keys) * self._rows.shape[1],
            }
        )

    def _span(self, asked: Asked, place: int) -> Span:
        parent = asked.keys[place - 1] if place else hashlib.sha256(self._fingerprint).digest()
        return Span(asked.keys[place], parent, place, as_tokens([]))

"""`LightMemTier`: our store behind vLLM's own offloading, as a secondary tier of `TieringOffloadingSpec`.

vLLM moves blocks between the GPU and rows of pinned host memory, orders the copies and keeps the rows; this moves rows
between there and the disk. All methods are called by the scheduler and return at once. What goes wrong is a miss.
"""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lightmem_engine.kv.files import Bytes
from lightmem_engine.kv.rates import Rates
from lightmem_engine.kv.store import KVStore
from lightmem_engine.runtime.complain import complain
from lightmem_engine.vllm_plugin import compat_tier
from lightmem_engine.vllm_plugin.compat_tier import LookupResult, OffloadPolicy, RequestOffloadingContext
from lightmem_engine.vllm_plugin.kept.held import HeldConversations, report_of
from lightmem_engine.vllm_plugin.kept.link import Follower, OwnerLink, complainer
from lightmem_engine.vllm_plugin.kept.options import ConnectorOptions
from lightmem_engine.vllm_plugin.kept.plan import block_key
from lightmem_engine.vllm_plugin.tier.metrics import TierMetrics, definitions
from lightmem_engine.vllm_plugin.tier.reads import TierReader, Wanted
from lightmem_engine.vllm_plugin.tier.requests import Asked
from lightmem_engine.vllm_plugin.tier.writes import TierWriter

logger = logging.getLogger(__name__)

KIND = "lightmem"  # its name in vLLM's configuration
_BYTES_PER_SECOND = 1e9  # if the disk cannot be measured
_DRAIN_SECONDS = 0.005  # between two looks at whether all jobs have ended
_ANSWERS = {"hit": LookupResult.HIT, "miss": LookupResult.MISS, "retry": LookupResult.RETRY}


class LightMemTier(compat_tier.SecondaryTierManager):  # type: ignore[misc]
    """Nothing is found or kept before `begin`. off: why not; empty once it does.   held: which conversations vLLM still
    has, for the owner."""

    medium = compat_tier.STORAGE

    def __init__(
        self,
        offloading_spec: Any,
        primary_kv_view: memoryview,
        tier_type: str,
        backpressure_detector: Any = None,
        **options: Any,
    ) -> None:
        """Raises `ConfigError` for options that are none. backpressure_detector: not used, the queue has its bound."""
        super().__init__(offloading_spec, primary_kv_view, tier_type)
        self.off = "it has not begun"
        self._spec = offloading_spec
        self._options = ConnectorOptions.of(options)
        self._rows: Bytes = np.asarray(primary_kv_view).view(np.uint8)
        self._chunk_tokens = compat_tier.tokens_per_chunk(offloading_spec)
        self._asked: dict[str, Asked] = {}
        self._searched: list[Asked] = []
        self._jobs: set[int] = set()
        self._ended: queue.SimpleQueue[tuple[int, list[bytes], bool]] = queue.SimpleQueue()
        self.held: HeldConversations | None = None
        self._fingerprint = b""
        self._store: KVStore | None = None
        self._rates: Rates | None = None
        self._metrics: TierMetrics | None = None
        self._reader: TierReader | None = None
        self._writer: TierWriter | None = None
        self._follower: Follower | None = None

    @classmethod
    def build_metric_definitions(cls, extra_config: dict[str, Any]) -> dict[str, Any]:
        """What vLLM's `/metrics` shows of the tier."""
        return definitions()

    @property
    def row_bytes(self) -> int:
        """Of one row of the host cache: one chunk of all layers."""
        return int(self._rows.shape[1])

    @property
    def chunk_tokens(self) -> int:
        """Tokens of one row."""
        return self._chunk_tokens

    def begin(self, fingerprint: bytes, tokens_per_second: float) -> Rates:
        """Open the store, and listen to the owner. tokens_per_second: of computing, as far as is known.

        What loads are decided by, for whoever measures the model. Raises `StoreError` for a useless directory.
        """
        store = self._store = self._options.open_store()
        link = OwnerLink(Path(self._options.socket))
        self._fingerprint = fingerprint
        self._metrics = TierMetrics(store.counters)
        rates = self._rates = Rates(tokens_per_second, _BYTES_PER_SECOND, may_give_up=self._options.selective)
        done = self._done
        reader = TierReader(store, rates, self._rows, self._chunk_tokens, self._options.min_tokens, done)
        self._reader = reader
        try:
            rates.follow(tokens_per_second, reader.measure())
        except OSError as error:
            complain(logger, "the speed of the KV directory could not be measured", error)
        writer = self._writer = TierWriter(store, link, fingerprint, rates, self._rows, self._chunk_tokens, done)

        def forbid(manifests: Iterable[str]) -> None:
            store.forbid(manifests)
            writer.forbid(manifests)

        def forget() -> None:
            writer.forget()
            store.forbid_all()

        held = self.held = HeldConversations(self._chunk_tokens, self._stored)
        self._follower = Follower(
            link,
            allow=store.allow,
            forbid=forbid,
            forget=forget,
            settled=writer.settle,
            report=lambda: report_of(store, held),
        )
        self.off = ""
        return rates

    def turn_off(self, reason: str) -> None:
        """Nothing is kept; vLLM's own host cache goes on."""
        self.off = reason
        logger.warning("no KV caches are kept: %s", reason)
        self._follower = complainer(OwnerLink(Path(self._options.socket)), reason)

    def watch(self, request: Any) -> None:
        """A request arrives; before vLLM says so itself, and with what vLLM does not say.

        Without a salt a cache is everybody's, and hashes say too little of adapters, pictures and embeddings: of such
        requests nothing is found or kept.
        """
        is_other = request.lora_request is not None or request.mm_features or request.prompt_token_ids is None
        if self.off or is_other or not request.cache_salt:
            return
        full = request.num_prompt_tokens // self._chunk_tokens
        hashes = compat_tier.chunk_hashes(self._spec, request.block_hashes)[:full]
        vllm_keys = [compat_tier.make_offload_key(one, 0) for one in hashes]
        keys = [block_key(self._fingerprint, one) for one in hashes]
        if keys:
            self._asked[request.request_id] = Asked.of(keys, vllm_keys, request.kv_transfer_params)

    # What vLLM calls.

    def on_new_request(self, req_context: Any) -> Any:
        """A request whose cache is kept is to come whole, with what the host cache has already."""
        asked = self._kept(req_context.req_id)
        return RequestOffloadingContext(policy=OffloadPolicy.REQUEST_LEVEL) if asked else RequestOffloadingContext()

    def lookup(self, key: bytes, req_context: Any) -> Any:
        """Whether a chunk can be loaded; the index is asked once for a request, in another thread."""
        asked = self._asked.get(req_context.req_id)
        place = None if asked is None else asked.place(key)
        if asked is None or place is None or self._reader is None or self._follower is None:
            return LookupResult.MISS
        if not self._follower.is_valid:
            return LookupResult.MISS
        now = time.monotonic()
        if asked.until is None:
            asked.begin_search(now)
            self._searched.append(asked)
            self._reader.search(asked, place)
        return _ANSWERS[asked.answer(place, now)]

    def submit_load(self, job_metadata: Any) -> None:
        """Begin a load into rows of the host cache."""
        job = job_metadata.job_id
        self._jobs.add(job)
        keys = list(job_metadata.keys)
        asked = self._asked.get(job_metadata.req_context.req_id)
        if asked is None or asked.found is None or self._reader is None:
            self._done(job, [], False)
            return
        asked.is_tried = True
        wanted = []
        for key, slot in zip(keys, compat_tier.slots_of(job_metadata), strict=True):
            row = asked.found.get(asked.places.get(bytes(key), -1))
            if row is not None:
                wanted.append(Wanted(key, row, slot))
        self._reader.load(job, wanted, len(keys))

    def submit_store(self, job_metadata: Any) -> None:
        """Keep rows of the host cache, if they belong to something that keeps them."""
        job = job_metadata.job_id
        self._jobs.add(job)
        asked = self._kept(job_metadata.req_context.req_id)
        if asked is None or self._writer is None or self._store is None:
            self._done(job, [], True)
            return
        slots = compat_tier.slots_of(job_metadata)
        places = [asked.place(key) for key in job_metadata.keys]
        rows = [(place, slot) for place, slot in zip(places, slots, strict=True) if place is not None]
        if not rows or not self._writer.keep(job, asked, rows):
            self._store.counters.count("stores_skipped", reason="queue" if rows else "unknown")
            self._done(job, [], not rows)

    def get_finished_jobs(self) -> Iterable[Any]:
        """The jobs that have ended since the last call."""
        if self._reader is not None:
            self._reader.give_up_overdue()
        found = []
        while not self._ended.empty():
            job, good, is_success = self._ended.get()
            if job in self._jobs:
                self._jobs.discard(job)
                found.append(compat_tier.job_result(job, is_success=is_success, good=good))
        return found

    def on_request_finished(self, req_context: Any) -> None:
        """No more is stored of a request."""
        asked = self._asked.pop(req_context.req_id, None)
        if asked is not None and asked.owner is not None and self._writer is not None:
            self._writer.end(asked)

    def on_schedule_end(self, context: Any) -> None:
        """A step ends: what has been found out since is what the next one sees."""
        for asked in self._searched:
            asked.found = asked.result
        self._searched = [asked for asked in self._searched if asked.found is None]

    def drain_jobs(self) -> None:
        """Return once no row is read or written any more."""
        while self._jobs and self._ended.qsize() < len(self._jobs):
            if self._reader is not None:
                self._reader.give_up_overdue()
            time.sleep(_DRAIN_SECONDS)

    def get_stats(self) -> Any:
        """What was counted since the last call."""
        return None if self._metrics is None else self._metrics.taken()

    def shutdown(self) -> None:
        """Write what waits, let go of everything, the host cache's memory above all."""
        for part in (self._follower, self._reader, self._writer, self._store):
            if part is not None:
                part.close()
        self._follower = self._reader = self._writer = self._store = self._metrics = None
        self._rows = self._rows[:0].copy()
        self.off = "it has ended"

    def _kept(self, request: str) -> Asked | None:
        """A request whose cache is kept."""
        asked = self._asked.get(request)
        if asked is None or asked.owner is None or self._rates is None or self._rates.has_given_up:
            return None
        tokens = len(asked.keys) * self._chunk_tokens
        if tokens < self._options.min_tokens:
            return None
        is_worth_it = not self._options.selective or self._rates.pays(tokens, len(asked.keys) * self.row_bytes)
        return asked if is_worth_it else None

    def _stored(self, block_hashes: Sequence[bytes], first: int) -> int:
        """How many blocks from a place on lie on the disk. Raises `sqlite3.Error`."""
        count = 0
        for one in block_hashes[first:]:
            if self._store is None or self._store.find(block_key(self._fingerprint, one)) is None:
                break
            count += 1
        return count

    def _done(self, job: int, good: list[bytes], is_success: bool) -> None:
        self._ended.put((job, good, is_success))

"""The extraction stage over closed segments: batches of one user become entries and vectors, or are parked."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import numpy as np

from lightmem_engine.errors import LightMemError
from lightmem_engine.pipeline.bisect import Poison, Retry, run_bisecting
from lightmem_engine.protocols import Clock
from lightmem_engine.runtime.complain import complain
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.short_term.extract import Extraction
from lightmem_engine.short_term.memory import due
from lightmem_engine.stores import entries, presence, work
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.supersede import withdraw_entries
from lightmem_engine.types import EntryDraft, Scope, Segment, Vector, Vectors

logger = logging.getLogger(__name__)

Extract = Callable[[Sequence[Segment]], Awaitable[Extraction]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]


class ExtractStage:
    """Consumes closed segments. One batch is one call of `extract`."""

    def __init__(
        self,
        db: MemoryDB,
        extract: Extract,
        embed: Embed,
        embed_model: str,
        threshold: int,
        retry: Retry,
        clock: Clock,
        failpoints: Failpoints,
        forget_prompts: Callable[[], Awaitable[None]],
        read_ahead: Callable[[Sequence[Segment]], Awaitable[None]] | None = None,
    ) -> None:
        """forget_prompts: empties the model's caches of what it has read.   read_ahead: has it read segments that wait
        for more of them."""
        self._read_ahead = read_ahead
        self._db = db
        self._extract = extract
        self._embed = embed
        self._embed_model = embed_model
        self._threshold = threshold
        self._retry = retry
        self._clock = clock
        self._failpoints = failpoints
        self._forget_prompts = forget_prompts

    async def run(self, scope: Scope, *, force: bool) -> None:
        """Extract every batch of the user that is due; with `force`, all closed segments."""
        while True:
            waiting = await self._db.read(lambda connection: work.closed_segments(connection, scope))
            count = due([tokens for _, tokens in waiting], self._threshold, flush=force)
            if not count:
                if waiting and self._read_ahead is not None:
                    await self._prepare(scope, [id for id, _ in waiting], self._read_ahead)
                return
            ids = [id for id, _ in waiting[:count]]
            segments = await self._db.read(partial(work.load_segments, scope=scope, ids=ids))
            await self._extract_batch(scope, segments)

    async def _prepare(
        self, scope: Scope, ids: Sequence[int], read_ahead: Callable[[Sequence[Segment]], Awaitable[None]]
    ) -> None:
        """Have what waits read before its time; if that fails, it is read in its time."""
        try:
            segments = await self._db.read(partial(work.load_segments, scope=scope, ids=ids))
            await read_ahead([segment for segment in segments if segment.turns])
        except LightMemError as error:
            complain(logger, "segments were not read ahead", error)

    async def _extract_batch(self, scope: Scope, segments: Sequence[Segment]) -> None:
        started = time.perf_counter()
        spent = Extraction()

        async def extract(part: Sequence[Segment]) -> list[list[tuple[EntryDraft, Vector]]]:
            nonlocal spent
            told = [segment for segment in part if segment.turns]
            extraction = await self._extract(told) if told else Extraction()
            spent += extraction
            embedded = await self._with_vectors(extraction.drafts)
            return [[pair for pair in embedded if pair[0].segment == segment.id] for segment in part]

        results = await run_bisecting(segments, extract, self._retry)
        seconds = time.perf_counter() - started

        def write(connection: sqlite3.Connection) -> bool:
            now = self._clock.now()
            # What was drawn from a segment of which something was deleted meanwhile may quote it: drawn anew, or gone.
            unchanged = [presence.is_unchanged(connection, segment) for segment in segments]
            for segment, result, stands in zip(segments, results, unchanged, strict=True):
                if not stands:
                    continue
                if isinstance(result, Poison):
                    work.park(connection, work.EXTRACT, scope, segment.id, result.error, result.attempts, now)
                    work.set_segment_state(connection, scope, [segment.id], "parked")
                else:
                    drafts, vectors = [draft for draft, _ in result], [vector for _, vector in result]
                    entries.insert(connection, scope, drafts, vectors, self._embed_model, now)
                    # A branch may have superseded what was just extracted.
                    withdraw_entries(connection, scope, [turn.turn.seq for turn in segment.turns], now)
                    work.set_segment_state(connection, scope, [segment.id], "extracted")
            if any(unchanged):
                work.add_usage(connection, scope, work.EXTRACT, spent.num_calls, spent.usage, seconds)
            self._failpoints.reach("stage.commit")
            return all(unchanged)

        if not await self._db.write(write):
            await self._forget_prompts()

    async def _with_vectors(self, drafts: Sequence[EntryDraft]) -> list[tuple[EntryDraft, Vector]]:
        """Each draft with its vector; those that have none are embedded together."""
        missing = [index for index, draft in enumerate(drafts) if draft.vector is None]
        vectors: list[Vector | None] = [draft.vector for draft in drafts]
        if missing:
            embedded = await self._embed([drafts[index].text for index in missing])
            for index, vector in zip(missing, embedded, strict=True):
                vectors[index] = np.asarray(vector, dtype=np.float32)
        return [(draft, vector) for draft, vector in zip(drafts, vectors, strict=True) if vector is not None]

"""`LocalEngine`: owns the data directory's stages and says in which order things happen."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from lightmem_engine.chat.patience import Patience
from lightmem_engine.chat.surroundings import Surroundings
from lightmem_engine.chat.turn import ChatTurns
from lightmem_engine.config import EngineConfig
from lightmem_engine.curated import Curated
from lightmem_engine.errors import InvalidInput
from lightmem_engine.long_term.memory import LongTermMemory
from lightmem_engine.names import check_name, check_scope
from lightmem_engine.protocols import Clock, LanguageModel
from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.batcher import DeviceWorker
from lightmem_engine.runtime.finished import Finished
from lightmem_engine.sensory.normalize import by_day, normalize
from lightmem_engine.types import (
    Delta,
    Floats,
    Hit,
    Message,
    OpenTurn,
    Priority,
    Prompt,
    Sampling,
    Scope,
    TurnDraft,
    TurnOptions,
    Vectors,
)

if TYPE_CHECKING:
    from lightmem_engine.pipeline.curator import Curator
    from lightmem_engine.pipeline.kept import Kept
    from lightmem_engine.pipeline.pipeline import Pipeline
    from lightmem_engine.pipeline.porter import Porter
    from lightmem_engine.pipeline.sleeper import Sleeper
    from lightmem_engine.stores.memory_db import MemoryDB

Part = tuple[str, Callable[[datetime | None], list[TurnDraft]]]  # a session, and what makes its messages drafts

# Where the model that answers tells how it attends: a question is sensed with its answer, or after so long without.
ANSWER_SECONDS, TELL_SECONDS = 30.0, 5.0


class LocalEngine(Curated):
    """The engine in this process. Built by `assemble.build`, closed with `aclose`; belongs to one event loop."""

    def __init__(
        self,
        *,
        config: EngineConfig,
        db: MemoryDB,
        pipeline: Pipeline,
        long_term: LongTermMemory,
        lm: LanguageModel,
        embed: Callable[[Sequence[str]], Awaitable[Vectors]],
        worker: DeviceWorker,
        admission: Admission,
        clock: Clock,
        release: Callable[[], None],
        directory: Path,
        curator: Curator,
        porter: Porter,
        sleeper: Sleeper,
        forget_prompts: Callable[[], Awaitable[None]],
        kept: Kept,
        chat_budget_ms: float,
        finished: Finished,
        note_attention: Callable[[Sequence[str], Floats], None] | None = None,
    ) -> None:
        """note_attention: takes what a model server says of the chats it has read."""
        super().__init__(curator, porter, sleeper, kept)
        self.config = config
        self.directory = directory
        self._forget_prompts = forget_prompts
        self.lm = lm
        self.embed = embed
        self._db = db
        self._pipeline = pipeline
        self._long_term = long_term
        self._worker = worker
        self._admission = admission
        self._clock = clock
        self._release = release
        self.note_attention = note_attention
        self._zone = ZoneInfo(config.memory.timezone)
        waits = config.classifier.source == "served"
        self._wakes = [Patience(pipeline.wake, seconds) for seconds in (TELL_SECONDS, ANSWER_SECONDS)]
        around = Surroundings(
            store=db.chats,
            search=self._recall,
            contents=db.contents,
            drafts=self._drafts,
            wake=self._wakes[0] if waits else pipeline.wake,
            wake_question=self._wakes[1] if waits else pipeline.wake,
            now=clock.now,
            today=lambda: clock.now().astimezone(self._zone).date(),
            finished=finished,
        )
        self._chat_turns = ChatTurns(config, around, chat_budget_ms)

    async def add(
        self,
        scope: Scope,
        messages: Sequence[Message],
        *,
        session: str | None = None,
        timestamp: str | float | datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        wait: bool = False,
    ) -> list[str]:
        """Log messages; returns their ids once they are on disk. With `wait`, once they are long-term memory.

        Without a session, each day is one, so that an older conversation told later keeps its own times.

        Raises `InvalidInput`, `Conflict` (a known id with other content), `StoreError`; then nothing is stored.
        """
        check_scope(scope)
        if not messages:
            raise InvalidInput("messages is empty")
        now = self._clock.now()
        if session is None:
            sessions = by_day(messages, timestamp=timestamp, zone=self._zone, now=now)
        else:
            sessions = [(check_name("session_id", session), list(messages))]
        options: dict[str, Any] = {"metadata": metadata or {}, "timestamp": timestamp, "zone": self._zone, "now": now}
        parts = [(name, partial(_normalize, part, **options)) for name, part in sessions]
        # Shielded: a caller that goes away must not leave logged messages without anybody who knows of them.
        ids = await asyncio.shield(asyncio.ensure_future(self._append(scope, parts, now)))
        if wait:
            await self._pipeline.flush(scope)
        return ids

    async def _append(self, scope: Scope, parts: Sequence[Part], now: datetime) -> list[str]:
        ids, fresh = await self._db.append(scope, parts, now)
        for session in fresh:
            self._pipeline.wake(scope, session)
        return ids

    async def search(
        self,
        scope: Scope,
        query: str,
        *,
        top_k: int = 10,
        max_tokens: int | None = None,
        as_of: datetime | None = None,
        filters: Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """What this user's memory holds on a question, best first; messages logged a moment ago included."""
        check_scope(scope)
        with self._admission.foreground(brief=True):
            return await self._long_term.search(
                scope, query, top_k=top_k, max_tokens=max_tokens, as_of=as_of, filters=filters
            )

    def forget_turns(self, scope: Scope) -> None:
        """Open chat turns of an erased user store nothing any more."""
        self._chat_turns.forget(scope)

    def doubt_turns(self, scope: Scope) -> None:
        """Chat turns that are being opened keep nothing of what they have found before a deletion."""
        self._chat_turns.doubt(scope)

    async def everything(self, scope: Scope) -> list[Hit]:
        """All that is remembered of a user, in the order it was said; superseded entries included."""
        docs, _ = await self._db.changes(scope, 0)
        hits = await self._db.hydrate(scope, [doc.ref for doc in docs])
        return [hits[doc.ref] for doc in docs if doc.ref in hits]

    async def segments(self, scope: Scope, session: str) -> list[list[str]]:
        """The message ids of each closed segment of a session, in order."""
        return await self._db.segments(scope, session)

    async def flush(self, scope: Scope | None = None) -> dict[str, Any]:
        """Wait until all that was logged is long-term memory or parked; returns `stats`."""
        if scope is not None:
            check_scope(scope)
        await self._pipeline.flush(scope)
        return await self.stats(scope)

    async def stats(self, scope: Scope | None = None) -> dict[str, Any]:
        """Counts, what waits, what is parked and why; the device's lanes for the whole engine."""
        result = await self._db.stats(scope)
        if scope is None:
            result["kv"] = await self._kept.stats()
            result["device"] = {
                lane: {"batches": use.batches, "items": use.items, "tokens": use.tokens, "seconds": use.seconds}
                for lane, use in sorted(self._worker.usage.items())
            }
        return result

    async def open_turn(
        self, scope: Scope | None, messages: Sequence[Mapping[str, Any]], options: TurnOptions
    ) -> OpenTurn:
        """Begin a chat turn: recall, place, and log the user's new words. Without a scope, nothing is read or kept."""
        if scope is not None:
            check_scope(scope)
            check_turn(options)
        return await self._chat_turns.open(scope, messages, options)

    async def close_turn(
        self,
        turn_id: str,
        reply: str,
        status: str,
        *,
        tool_calls: Sequence[Mapping[str, Any]] | None = None,
    ) -> bool:
        """End a chat turn: log the reply; `status` is `complete` or `partial`. Says whether it is on disk.

        tool_calls: those of the reply, as the client gets them.
        """
        return await self._chat_turns.close(turn_id, reply, status, tool_calls)

    async def _recall(self, scope: Scope, query: str, **options: Any) -> tuple[list[Hit], bool]:
        with self._admission.foreground(brief=True):
            return await self._long_term.recall(scope, query, **options)

    def _drafts(self, messages: Sequence[Message], last_event_time: datetime | None) -> list[TurnDraft]:
        now = self._clock.now()
        return normalize(messages, timestamp=None, zone=self._zone, last_event_time=last_event_time, now=now)

    @property
    def is_sound(self) -> bool:
        """Whether what is told can be stored, as far as is known."""
        return self._db.is_sound

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the device."""
        return self._worker.queued_tokens

    @asynccontextmanager
    async def foreground(self) -> AsyncIterator[None]:
        """Hold while a user waits; background work steps aside."""
        with self._admission.foreground():
            yield

    async def generate(self, messages: Sequence[Mapping[str, Any]], sampling: Sampling) -> AsyncIterator[Delta]:
        """The language model's answer, piece by piece, at foreground priority."""
        async with aclosing(self.answer(Prompt(tuple(messages)), sampling)) as deltas:
            async for delta in deltas:
                yield delta

    async def answer(self, prompt: Prompt, sampling: Sampling) -> AsyncGenerator[Delta, None]:
        """As `generate`, for a prompt with tools or a schema. Closing the iterator stops the model."""
        before = self._num_erased
        try:
            with self._admission.foreground():
                async for delta in self.lm.stream(prompt, sampling=sampling, priority=Priority.FOREGROUND):
                    yield delta
        finally:
            if self._num_erased != before:  # the model may have read words that are to be forgotten by now
                await self._forget_prompts()

    async def aclose(self) -> None:
        """Stop the stages, the device and the database; unfinished work is taken up at the next start."""
        await self._chat_turns.aclose()
        for patience in self._wakes:
            patience.close()
        await self._pipeline.aclose()
        await self._sleeper.aclose()
        await self._kept.aclose()
        await self.lm.aclose()
        await asyncio.to_thread(self._worker.close)
        await self._long_term.aclose()
        await self._db.aclose()
        self._release()


def check_turn(options: TurnOptions) -> None:
    """Options of a chat turn that can be, or `InvalidInput`."""
    if options.session is not None:
        check_name("session_id", options.session)
    if options.idempotency_key is not None:
        check_name("Idempotency-Key", options.idempotency_key)
    if options.budget_ms is not None and not 0 <= options.budget_ms < float("inf"):
        raise InvalidInput("budget_ms must be 0 or more")


def _normalize(
    messages: Sequence[Message], last_event_time: datetime | None, *, metadata: Mapping[str, Any], **options: Any
) -> Any:
    drafts = normalize(messages, last_event_time=last_event_time, **options)
    if not metadata:
        return drafts
    return [dataclasses.replace(draft, metadata={**metadata, **draft.metadata}) for draft in drafts]

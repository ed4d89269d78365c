"""The sensory stage over the log: the next messages of many users in one pass, committed user by user."""

from __future__ import annotations

import asyncio
import itertools
import sqlite3
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from lightmem_engine.config_sensory import SegmentConfig
from lightmem_engine.pipeline.bisect import Poison, Retry, describe, run_bisecting
from lightmem_engine.protocols import Clock
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.sensory.memory import SensoryJob, SensoryMemory
from lightmem_engine.sensory.segment import Decision, TurnSignal, decide
from lightmem_engine.sensory.term_counts import TermCounts
from lightmem_engine.stores import log, presence, work
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.sqlite import apart
from lightmem_engine.stores.supersede import superseded
from lightmem_engine.types import Scope, SensedTurn, Turn, Usage

MAX_MESSAGES_PER_USER = 16
# Turns before the undecided ones that a boundary decision may look at.
MAX_HISTORY_TURNS = 192
# Messages whose words make up a user's term statistics, and how many users' statistics stay in memory.
MAX_COUNTED_MESSAGES = 512
MAX_COUNTED_USERS = 512
REMEMBERED_ROLES = ("user", "assistant")


@dataclass(frozen=True, slots=True)
class _Item:
    """A message to sense, and the turns of its session just before it."""

    turn: Turn
    context: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class _Next:
    """What a user's log holds after the cursor."""

    turns: list[Turn]
    superseded: set[int]  # among the turns; nobody is to recall them
    contexts: dict[str, list[Turn]]
    earlier: list[str]  # texts for term statistics that are not in memory, oldest first
    settled: set[int]  # messages that came with their results


class SenseStage:
    """Consumes the log. `run` serves a batch of users; `close_sessions` ends open segments."""

    def __init__(
        self,
        db: MemoryDB,
        sensory: SensoryMemory,
        segments: SegmentConfig,
        retry: Retry,
        clock: Clock,
        failpoints: Failpoints,
    ) -> None:
        self._db = db
        self._sensory = sensory
        self._segments = segments
        self._retry = retry
        self._clock = clock
        self._failpoints = failpoints
        self._counts: OrderedDict[Scope, TermCounts] = OrderedDict()

    async def run(self, scopes: Sequence[Scope]) -> dict[Scope, bool]:
        """Sense and commit the next messages of each user; for each, whether more may wait."""
        started = time.perf_counter()
        found = await self._db.read(lambda connection: [self._next(connection, scope) for scope in scopes])
        for scope, following in zip(scopes, found, strict=True):
            self._count(scope, following)
        items = [item for following in found for item in _items(following, self._sensory.context_turns)]
        results = await run_bisecting(items, self._sense, self._retry)
        outcomes: dict[Scope, dict[int, SensedTurn | Poison]] = {scope: {} for scope in scopes}
        for item, result in zip(items, results, strict=True):
            outcomes[item.turn.scope][item.turn.seq] = result
        seconds = (time.perf_counter() - started) / max(1, len(items))
        for scope, following in zip(scopes, found, strict=True):
            if following.turns:
                await self._commit(scope, outcomes[scope], following.turns, seconds)
        return {
            scope: len(following.turns) == MAX_MESSAGES_PER_USER for scope, following in zip(scopes, found, strict=True)
        }

    async def close_sessions(self, scope: Scope, sessions: Sequence[str]) -> None:
        """Decide every gap of these sessions now and close what is open; what cannot be decided is parked."""

        def write(connection: sqlite3.Connection) -> None:
            for session in sessions:
                error = apart(connection, partial(self._segment, connection, scope, session, final=True))
                if error is not None:
                    self._park_session(connection, scope, session, describe(error))
            self._failpoints.reach("stage.commit")

        await self._db.write(write)

    async def _sense(self, items: Sequence[_Item]) -> list[SensedTurn]:
        """One pass over all items; consecutive messages of one session are read together."""
        jobs = []
        for (scope, _), group in itertools.groupby(items, key=lambda item: (item.turn.scope, item.turn.session)):
            batch = list(group)
            counts = self._counts.get(scope) or TermCounts()  # forgotten meanwhile, if its user was
            turns = tuple(item.turn for item in batch)
            before = batch[0].context
            jobs.append(
                SensoryJob(
                    turns,
                    context=[turn.text for turn in before],
                    document_frequency=counts.document_frequency,
                    num_documents=counts.num_documents,
                    user_context=[turn.text for turn in before if turn.role == "user"],
                )
            )
        # Planning and compression are plain Python: in a thread of their own they cannot hold up a chat.
        sensed = await asyncio.to_thread(lambda: asyncio.run(self._sensory.sense(jobs)))
        return [turn for turns in sensed for turn in turns]

    def _next(self, connection: sqlite3.Connection, scope: Scope) -> _Next:
        cursor = work.cursor(connection, work.SENSE, scope)
        turns = log.turns_after(connection, scope, cursor, MAX_MESSAGES_PER_USER)
        if not turns:
            return _Next([], set(), {}, [], set())
        first = turns[0].seq
        contexts = {
            session: log.turns_before(connection, scope, session, first, self._sensory.context_turns)
            for session in {turn.session for turn in turns}
        }
        known = scope in self._counts
        earlier = [] if known else log.texts_before(connection, scope, first, MAX_COUNTED_MESSAGES)
        seqs = [turn.seq for turn in turns]
        settled = presence.settled(connection, work.SENSE, seqs)
        return _Next(turns, superseded(connection, seqs), contexts, earlier, settled)

    def forget(self, scope: Scope) -> None:
        """Drop what is kept in memory of a user's words."""
        self._counts.pop(scope, None)

    def _count(self, scope: Scope, following: _Next) -> None:
        """Let the user's term statistics know the new messages."""
        if not following.turns:
            return
        counts = self._counts.pop(scope, None) or TermCounts()
        for text in following.earlier:
            counts.add(text)
        for turn in following.turns:
            if turn.role in REMEMBERED_ROLES and turn.seq not in following.superseded:
                counts.add(turn.text)
        self._counts[scope] = counts
        while len(self._counts) > MAX_COUNTED_USERS:
            self._counts.popitem(last=False)

    async def _commit(
        self, scope: Scope, outcome: dict[int, SensedTurn | Poison], turns: Sequence[Turn], seconds_each: float
    ) -> None:
        """Results, segments and cursor in one transaction; of what was erased since it was read, nothing."""

        def write(connection: sqlite3.Connection) -> bool:
            alive = presence.alive(connection, turns)
            if not alive:
                return False
            left = {seq: result for seq, result in outcome.items() if seq in alive}
            gone = superseded(connection, left)  # a branch may have superseded some meanwhile
            sensed = [r for r in left.values() if isinstance(r, SensedTurn) and r.turn.seq not in gone]
            poison = {seq: result for seq, result in left.items() if isinstance(result, Poison)}
            work.save_sensed(connection, scope, sensed)
            for seq, item in poison.items():
                work.park(connection, work.SENSE, scope, seq, item.error, item.attempts, self._clock.now())
            for session in dict.fromkeys(result.turn.session for result in sensed):
                error = apart(connection, partial(self._segment, connection, scope, session, final=False))
                if error is not None:
                    self._park_session(connection, scope, session, describe(error))
            usage = Usage(prompt_tokens=sum(result.num_tokens for result in sensed))
            work.add_usage(connection, scope, work.SENSE, len(sensed), usage, seconds_each * len(outcome))
            work.advance(connection, work.SENSE, scope, turns[-1].seq)
            self._failpoints.reach("stage.commit")
            return len(alive) == len(turns)

        if not await self._db.write(write):
            self.forget(scope)

    def _segment(self, connection: sqlite3.Connection, scope: Scope, session: str, *, final: bool) -> None:
        """Close the segments whose ends are decided; with `final`, all of them."""
        found = work.session_signals(connection, scope, session, MAX_HISTORY_TURNS)
        if not found.seqs:
            return
        signals = [TurnSignal(*fields) for fields in zip(*found[1:6], strict=True)]
        decision = decide(signals, self._segments, decided=found.decided, final=final)
        settled = found.seqs[-1] + 1 if decision.decided >= len(found.seqs) else found.seqs[decision.decided]
        work.set_decided(connection, scope, session, settled)
        for start, end in self._closed(found, decision, final):
            tokens = sum(found.num_tokens[start:end])
            work.close_segment(connection, scope, session, found.seqs[start:end], tokens, self._clock.now())

    def _park_session(self, connection: sqlite3.Connection, scope: Scope, session: str, error: str) -> None:
        """Set aside what is open of a session whose topics cannot be told apart: one segment, parked with the error.
        Its messages stay pending, so they are found by their words."""
        seqs = presence.open_messages(connection, scope, session)
        if seqs:
            segment = work.close_segment(connection, scope, session, seqs, 0, self._clock.now())
            work.park(connection, work.EXTRACT, scope, segment, error, 1, self._clock.now())
            work.set_segment_state(connection, scope, [segment], "parked")

    def _closed(self, found: work.SessionSignals, decision: Decision, final: bool) -> Iterator[tuple[int, int]]:
        """The open turns [start, end) of each segment that ends now: at a boundary, when full, or at the end."""
        start = found.is_open.index(True) if True in found.is_open else len(found.seqs)
        tokens = 0
        for turn in range(start, len(found.seqs)):
            full = tokens >= self._segments.max_tokens and turn < decision.decided
            if turn > start and (turn in decision.boundaries or full):
                yield start, turn
                start, tokens = turn, 0
            tokens += found.num_tokens[turn]
        if final and start < len(found.seqs):
            yield start, len(found.seqs)


def _items(following: _Next, context_turns: int) -> list[_Item]:
    """A user's remembered turns, superseded ones left out, session by session, each with the turns before it."""
    items = []
    for turn in sorted(following.turns, key=lambda turn: (turn.session, turn.seq)):
        if turn.role in REMEMBERED_ROLES and turn.seq not in following.superseded | following.settled:
            before = following.contexts[turn.session]
            items.append(_Item(turn, tuple(before[-context_turns:])))
            before.append(turn)
    return items

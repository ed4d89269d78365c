"""The stages' loops: wake them with `wake`, wait for them with `flush`. Nothing polls; every loop waits for work."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any

from lightmem_engine.errors import BackendUnavailable, StoreError
from lightmem_engine.pipeline.bisect import Retry
from lightmem_engine.pipeline.extract import ExtractStage
from lightmem_engine.pipeline.idle import IdleTimers
from lightmem_engine.pipeline.ready import ReadySet
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.protocols import Clock
from lightmem_engine.stores import log, work
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import Scope

logger = logging.getLogger(__name__)

USERS_PER_BATCH = 32
NUM_SENSE_LOOPS = 2  # one reads and commits while the other's batch is on the device


@dataclass(slots=True)
class _Pending:
    """What a user's next pass has to do besides the usual."""

    closing: set[str] = field(default_factory=set)  # sessions that fell silent
    flushes: list[asyncio.Future[None]] = field(default_factory=list)  # whose sessions are not closed yet
    closed: list[asyncio.Future[None]] = field(default_factory=list)  # flushes that wait for extraction
    force: bool = False  # extract below the threshold, too

    def fail(self, error: Exception) -> None:
        """Tell everybody who waits."""
        for future in (*self.flushes, *self.closed):
            if not future.done():
                future.set_exception(error)
        self.flushes.clear()
        self.closed.clear()


class Pipeline:
    """Runs the stages over all users. Belongs to one event loop."""

    def __init__(
        self,
        db: MemoryDB,
        sense: SenseStage,
        extract: ExtractStage,
        retry: Retry,
        idle_seconds: float,
        num_extract_loops: int,
        clock: Clock,
    ) -> None:
        self._db = db
        self._sense = sense
        self._extract = extract
        self._retry = retry
        self._idle_seconds = idle_seconds
        self._num_extract_loops = num_extract_loops
        self._clock = clock
        self._to_sense = ReadySet()
        self._to_extract = ReadySet()
        self._pending: dict[Scope, _Pending] = {}
        self._idle = IdleTimers(self._fell_silent, clock.monotonic)
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Take up what an earlier process left unfinished, and begin to serve."""
        unfinished, open_sessions = await self._db.read(
            lambda connection: (work.unfinished(connection), work.open_sessions(connection))
        )
        for scope in unfinished:
            self._to_sense.put(scope)
        now = self._clock.now()
        for scope, session, since in open_sessions:
            silent = max(0.0, (now - since).total_seconds())
            self._idle.touch((scope, session), self._clock.monotonic() + max(0.0, self._idle_seconds - silent))
        loops = [self._sense_loop() for _ in range(NUM_SENSE_LOOPS)]
        loops += [self._extract_loop() for _ in range(self._num_extract_loops)]
        self._tasks = [self._spawn(loop) for loop in loops]

    async def aclose(self) -> None:
        """Stop; what is unfinished stays in the database for the next start."""
        self._idle.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pending in self._pending.values():
            pending.fail(BackendUnavailable("the engine is closing"))

    def wake(self, scope: Scope, session: str) -> None:
        """New messages of this session are in the log."""
        self._idle.touch((scope, session), self._clock.monotonic() + self._idle_seconds)
        self._to_sense.put(scope)

    async def flush(self, scope: Scope | None = None) -> None:
        """Wait until everything logged so far is in long-term memory or parked; of all users if none is named.

        Raises the transient error (an unreachable model, a full disk) that keeps a stage from going on; the work
        itself stays pending and is tried again.
        """
        if scope is not None:
            scopes = [scope]
        else:
            scopes = await self._db.read(
                lambda connection: list(
                    dict.fromkeys([*work.unfinished(connection), *(row[0] for row in work.open_sessions(connection))])
                )
            )
        futures = []
        for one in scopes:
            future = asyncio.get_running_loop().create_future()
            self._state(one).flushes.append(future)
            self._to_sense.put(one)
            futures.append(future)
        for result in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def waiting(self, error: Exception) -> None:
        """A stage waits for better times: whoever waits for a flush learns why."""
        logger.warning("a stage is waiting to retry: %s", error)
        for pending in self._pending.values():
            pending.fail(error)

    def _spawn(self, loop: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(loop)
        task.add_done_callback(_report)
        return task

    def _state(self, scope: Scope) -> _Pending:
        return self._pending.setdefault(scope, _Pending())

    def _fell_silent(self, key: tuple[Scope, str]) -> None:
        scope, session = key
        self._state(scope).closing.add(session)
        self._to_sense.put(scope)

    async def _sense_loop(self) -> None:
        failures = 0
        while True:
            scopes = await self._to_sense.take(USERS_PER_BATCH)
            try:
                more = await self._sense.run(scopes)
                for scope in scopes:
                    if not more[scope]:
                        await self._close_due(scope)
                failures = 0
            except StoreError as error:
                self.waiting(error)
                failures += 1
                await self._retry.pause(failures)
                more = dict.fromkeys(scopes, True)
            for scope in scopes:
                self._to_sense.done(scope, again=more[scope])
                if not more[scope]:
                    self._to_extract.put(scope)

    async def _close_due(self, scope: Scope) -> None:
        """The log is consumed: close the sessions that fell silent, or all of them for a flush."""
        pending = self._pending.get(scope)
        if pending is None:
            return
        sessions = set(pending.closing)
        flushes = list(pending.flushes)
        if flushes:
            rows = await self._db.read(lambda connection: work.open_sessions(connection, scope))
            sessions |= {session for _, session, _ in rows}
        if sessions:
            await self._sense.close_sessions(scope, sorted(sessions))
        pending.closing -= sessions
        pending.force = True
        pending.flushes = [future for future in pending.flushes if future not in flushes]
        pending.closed += flushes

    async def _extract_loop(self) -> None:
        failures = 0
        while True:
            (scope,) = await self._to_extract.take(1)
            pending = self._state(scope)
            force, pending.force = pending.force, False
            flushes, pending.closed = pending.closed, []
            try:
                await self._extract.run(scope, force=force or bool(flushes))
                failures = 0
                await self._finish(scope, pending, flushes)
            except StoreError as error:
                pending.force = force
                pending.closed += flushes
                self.waiting(error)
                failures += 1
                await self._retry.pause(failures)
                self._to_extract.done(scope, again=True)
            else:
                self._to_extract.done(scope)

    async def _finish(self, scope: Scope, pending: _Pending, flushes: list[asyncio.Future[None]]) -> None:
        """Answer the flushes if the whole log is through; otherwise they go round once more."""
        behind = bool(flushes) and await self._db.read(
            lambda connection: work.cursor(connection, work.SENSE, scope) < log.last_seq(connection, scope)
        )
        if behind:
            pending.flushes += flushes
            self._to_sense.put(scope)
            return
        for future in flushes:
            if not future.done():
                future.set_result(None)
        if not (pending.flushes or pending.closed or pending.closing or pending.force):
            self._pending.pop(scope, None)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("a stage loop died", exc_info=task.exception())

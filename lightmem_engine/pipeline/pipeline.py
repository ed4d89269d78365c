"""The stages' loops: wake them with `wake`, wait for them with `flush`. Nothing polls; every loop waits for work."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightmem_engine.errors import BackendUnavailable, ModelError, StoreError
from lightmem_engine.pipeline.bisect import Retry
from lightmem_engine.pipeline.extract import ExtractStage
from lightmem_engine.pipeline.idle import IdleTimers
from lightmem_engine.pipeline.listeners import Listeners
from lightmem_engine.pipeline.ready import ReadySet
from lightmem_engine.pipeline.sense import SenseStage
from lightmem_engine.protocols import Clock
from lightmem_engine.runtime.complain import complain
from lightmem_engine.stores import log, work
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.types import Scope

logger = logging.getLogger(__name__)

USERS_PER_BATCH = 32
NUM_SENSE_LOOPS = 2  # one reads and commits while the other's batch is on the device


@dataclass(frozen=True, slots=True)
class _Flush:
    """Somebody waits until the user's messages up to `target` are through."""

    future: asyncio.Future[None]
    target: int


@dataclass(slots=True)
class _Pending:
    """What a user's next pass has to do besides the usual."""

    closing: set[str] = field(default_factory=set)  # sessions that fell silent
    flushes: list[_Flush] = field(default_factory=list)  # whose sessions are not closed yet
    closed: list[_Flush] = field(default_factory=list)  # flushes that wait for extraction
    served: list[_Flush] = field(default_factory=list)  # flushes that extraction works for now
    force: bool = False  # extract below the threshold, too

    def fail(self, error: Exception) -> None:
        """Tell everybody who waits."""
        for flush in (*self.flushes, *self.closed, *self.served):
            if not flush.future.done():
                flush.future.set_exception(error)
        self.flushes.clear()
        self.closed.clear()
        self.served.clear()


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
        listeners: Listeners | None = None,
    ) -> None:
        self._listeners = listeners or Listeners()
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
        unfinished, sessions = await self._db.read(
            lambda connection: (work.unfinished(connection), work.unsettled_sessions(connection))
        )
        for scope in unfinished:
            # Segments that wait below the threshold have no timer any more: the restart counts as their silence.
            self._state(scope).force = True
            self._to_sense.put(scope)
        now = self._clock.now()
        for scope, session, since in sessions:
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
        self._listeners.heard(scope)

    def forget(self, scope: Scope) -> None:
        """Some of the user's words are gone: keep none in memory, and look again at who waits for what."""
        self._sense.forget(scope)
        if scope in self._pending:
            self._to_sense.put(scope)

    def forget_user(self, scope: Scope) -> None:
        """All of the user's data is gone."""
        self.forget(scope)
        self._idle.forget(lambda key: key[0] == scope)

    async def flush(self, scope: Scope | None = None) -> None:
        """Wait until everything logged so far is in long-term memory or parked; of all users if none is named.

        Raises the transient error (an unreachable model, a full disk) that keeps a stage from going on; the work
        itself stays pending and is tried again.
        """
        futures = []
        for one, target in await self._db.read(lambda connection: _targets(connection, scope)):
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._state(one).flushes.append(_Flush(future, target))
            self._to_sense.put(one)
            futures.append(future)
        for result in await asyncio.gather(*futures, return_exceptions=True):
            if isinstance(result, BaseException):
                raise result

    def waiting(self, error: Exception) -> None:
        """A stage waits for better times: whoever waits for a flush learns why."""
        complain(logger, "a stage is waiting to retry", error)
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
                more = await self._sense_alone(scopes)
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

    async def _sense_alone(self, scopes: Sequence[Scope]) -> dict[Scope, bool]:
        """Serve these users; one whom the stage fails on in a way that nobody foresaw holds up no other."""
        try:
            more = await self._sense.run(scopes)
        except StoreError:
            raise
        except Exception as error:
            logger.debug("what failed and where", exc_info=error)
            if len(scopes) == 1:
                return {scopes[0]: self._failed(scopes[0], error)}
            more = {}
            for scope in scopes:
                more |= await self._sense_alone([scope])
            return more
        for scope in scopes:
            try:
                more[scope] = not await self._close_due(scope) or more[scope]
            except StoreError:
                raise
            except Exception as error:
                logger.debug("what failed and where", exc_info=error)
                more[scope] = self._failed(scope, error)
        return more

    def _failed(self, scope: Scope, error: Exception) -> bool:
        """A stage has failed on a user in a way that nobody foresaw: whoever waits learns it at once. What is left to
        do stays in the database, and is tried again with the user's next message, the next flush, the next start.
        False: not sooner than that."""
        logger.critical("a stage failed on a user: %s", type(error).__name__)
        self._state(scope).fail(ModelError(f"memory could not be built: {type(error).__name__}"))
        return False

    async def _close_due(self, scope: Scope) -> bool:
        """Close the sessions that fell silent, or all of them for a flush. False if some must wait for messages that
        came in since the pass began: closed before those are sensed, a session would stay open for good."""
        pending = self._pending.get(scope)
        if pending is None or not (pending.closing or pending.flushes):
            return True
        waiting = list(pending.flushes)
        unsensed, rows, reached = await self._db.read(
            lambda connection: (
                work.unsensed_sessions(connection, scope),
                work.open_sessions(connection, scope),
                work.cursor(connection, work.SENSE, scope),
            )
        )
        # With nothing left to sense a target is reached, too: its message may have been deleted.
        flushes = [flush for flush in waiting if flush.target <= reached or not unsensed]
        silent = pending.closing - unsensed
        pending.closing -= silent  # before the write: a session may fall silent again meanwhile
        sessions = silent | {session for _, session, _ in rows if flushes}
        try:
            if sessions:
                await self._sense.close_sessions(scope, sorted(sessions))
        except Exception:
            self._state(scope).closing |= silent
            raise
        pending = self._state(scope)
        pending.force |= bool(sessions or flushes)
        pending.flushes = [flush for flush in pending.flushes if flush not in flushes]
        pending.closed += flushes
        return not (unsensed and (pending.closing or pending.flushes))

    async def _extract_loop(self) -> None:
        failures = 0
        while True:
            (scope,) = await self._to_extract.take(1)
            pending = self._state(scope)
            pending.served, pending.closed = pending.closed, []
            force, pending.force = pending.force or bool(pending.served), False
            try:
                await self._extract.run(scope, force=force)
                await self._listeners.extracted(scope)
                failures = 0
                self._finish(scope, pending)
            except StoreError as error:
                pending.force |= force
                self.waiting(error)
                failures += 1
                await self._retry.pause(failures)
                self._to_extract.done(scope, again=True)
            except Exception as error:
                logger.debug("what failed and where", exc_info=error)
                self._to_extract.done(scope, again=self._failed(scope, error))
            else:
                self._to_extract.done(scope)

    def _finish(self, scope: Scope, pending: _Pending) -> None:
        """Answer the flushes that this pass of extraction was for."""
        for flush in pending.served:
            if not flush.future.done():
                flush.future.set_result(None)
        pending.served.clear()
        if not (pending.flushes or pending.closed or pending.closing or pending.force):
            self._pending.pop(scope, None)


def _targets(connection: sqlite3.Connection, scope: Scope | None) -> list[tuple[Scope, int]]:
    """Whom a flush concerns, and up to which message."""
    if scope is not None:
        scopes = [scope]
    else:
        connection.execute("BEGIN")  # of one commit, or a user could pass from one list to the other unseen
        try:
            open_sessions = [row[0] for row in work.open_sessions(connection)]
            scopes = list(dict.fromkeys([*work.unfinished(connection), *open_sessions]))
        finally:
            connection.execute("COMMIT")
    return [(one, log.last_seq(connection, one)) for one in scopes]


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("a stage loop died", exc_info=task.exception())

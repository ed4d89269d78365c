"""When sleep happens: runs by call, by idleness, by count and by schedule, one after the other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from dataclasses import asdict, replace
from functools import partial
from typing import Any, Literal

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import BackendUnavailable, InvalidInput, LightMemError, NotFound, StoreError
from lightmem_engine.pipeline.consolidate import Consolidator
from lightmem_engine.pipeline.idle import IdleTimers
from lightmem_engine.protocols import Clock
from lightmem_engine.stores import runs, sleep_notes
from lightmem_engine.stores.memory_db import MemoryDB, snapshot
from lightmem_engine.types import RunReason, RunState, Scope, SleepBudget, SleepReport, SleepRun

logger = logging.getLogger(__name__)

MAX_LISTED = 500
_HOUR = 3600.0


class Sleeper:
    """Starts runs and drives them. Belongs to one event loop."""

    def __init__(
        self,
        db: MemoryDB,
        consolidator: Consolidator,
        config: EngineConfig,
        mode: Literal["rules", "llm"],
        clock: Clock,
    ) -> None:
        self._db = db
        self._consolidator = consolidator
        self._options = config.sleep
        self._forgets = bool(config.forget.expire_days or config.forget.max_entries)
        self._mode = mode
        self._clock = clock
        self._waiting: asyncio.Queue[SleepRun] = asyncio.Queue()
        self._ended: dict[str, asyncio.Future[None]] = {}  # by run
        self._due: set[Scope] = set()  # with a run that began by itself and has not ended
        self._idle = IdleTimers(self._fell_idle, clock.monotonic)
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Go on with runs that an earlier process did not end, and watch for the next."""
        for run in await self._db.read(runs.unfinished):
            if run.mode == self._mode:
                self._enqueue(run)
            else:
                await self._end(run, "stopped", "sleep.mode is another one now")
        if self._options.idle_seconds:
            for scope in await self._db.read(sleep_notes.unseen_users):
                self.heard(scope)
        self._spawn(self._work())
        if self._options.every_hours:
            self._spawn(self._by_schedule())

    async def aclose(self) -> None:
        """Stop; a run under way goes on at the next start."""
        self._idle.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for future in self._ended.values():
            if not future.done():
                future.set_exception(BackendUnavailable("the engine is closing; the run goes on at the next start"))
                future.exception()  # whether or not somebody waits

    def heard(self, scope: Scope) -> None:
        """The user said something."""
        if self._options.idle_seconds:
            self._idle.touch(scope, self._clock.monotonic() + self._options.idle_seconds)

    def forget_user(self, scope: Scope) -> None:
        """All of the user's data is gone."""
        self._idle.forget(lambda key: key == scope)

    async def extracted(self, scope: Scope) -> None:
        """New entries of the user may be there. In online mode, returns once they have been compared."""
        if self._options.update == "online":
            if await self._db.read(partial(sleep_notes.num_unseen, scope=scope)):
                run = await self._note(scope.tenant, scope.user, "online", None)
                await self._through(run)  # at once, whatever else is waiting
            return
        if self._options.after_entries and scope not in self._due:
            unseen = await self._db.read(partial(sleep_notes.num_unseen, scope=scope))
            if unseen >= self._options.after_entries:
                self._due.add(scope)
                await self._begin(scope.tenant, scope.user, "count", None)

    async def sleep(
        self, tenant: str, user: str | None, budget: SleepBudget | None = None, *, wait: bool = True
    ) -> SleepRun:
        """Start a run over a user, or over all users of a tenant; with `wait`, return it once it has ended.

        budget: what it names goes before the configured one. Raises `InvalidInput`.
        """
        for name, limit in ({} if budget is None else asdict(budget)).items():
            if limit is not None and not 0 <= limit < 2**53:
                raise InvalidInput(f"{name} must be 0 or more")
        run = await self._begin(tenant, user, "call", budget)
        if not wait:
            return run
        await self._until_ended(run)
        return await self._db.read(partial(runs.get, tenant=tenant, id=run.id))

    async def report(self, tenant: str, id: str) -> SleepReport:
        """A run with its changes. Raises `NotFound`."""
        return await self._db.read(snapshot(partial(runs.report, tenant=tenant, id=id)))

    async def runs(self, tenant: str, user: str | None = None, limit: int = 100) -> list[SleepRun]:
        """The newest runs of a tenant or of one user, the newest first."""
        if not 1 <= limit <= MAX_LISTED:
            raise InvalidInput(f"limit must be between 1 and {MAX_LISTED}")
        return await self._db.read(partial(runs.listed, tenant=tenant, user=user, limit=limit))

    async def roll_back(self, tenant: str, id: str) -> SleepRun:
        """Undo a run. Raises `NotFound`, and `Conflict` if what it touched has changed since."""
        return await self._db.write(partial(runs.roll_back, tenant=tenant, id=id, now=self._clock.now()))

    async def _begin(self, tenant: str, user: str | None, reason: RunReason, budget: SleepBudget | None) -> SleepRun:
        run = await self._note(tenant, user, reason, budget)
        self._enqueue(run)
        return run

    async def _note(self, tenant: str, user: str | None, reason: RunReason, budget: SleepBudget | None) -> SleepRun:
        options = self._options
        configured = SleepBudget(options.max_calls, options.max_tokens, options.max_seconds)
        if budget is not None:
            given = {name: limit for name, limit in asdict(budget).items() if limit is not None}
            configured = replace(configured, **given)
        begin = partial(runs.begin, tenant=tenant, user=user, reason=reason, mode=self._mode, budget=configured)
        return await self._db.write(partial(begin, now=self._clock.now()))

    def _enqueue(self, run: SleepRun) -> None:
        self._ended[run.id] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(run)

    async def _until_ended(self, run: SleepRun) -> None:
        future = self._ended.get(run.id)
        if future is not None:
            await asyncio.shield(future)  # whoever waits may go away; the run does not

    async def _work(self) -> None:
        while True:
            run = await self._waiting.get()
            try:
                await self._through(run)
            except StoreError as error:  # the disk is full or broken: the run stays open for the next start
                logger.warning("a run of sleep cannot go on: %s", error)
            future = self._ended.pop(run.id)
            if not future.done():
                future.set_result(None)
            if run.user is not None:
                self._due.discard(Scope(user=run.user, tenant=run.tenant))

    async def _through(self, run: SleepRun) -> None:
        error: str | None
        try:
            state, error = await self._consolidator.run(run)
        except StoreError:
            raise
        except NotFound:
            return  # erased with its user
        except LightMemError as failure:
            state, error = "failed", type(failure).__name__  # its words may quote what somebody said
        except Exception as failure:
            logger.warning("a run of sleep failed: %s", type(failure).__name__)
            logger.debug("what failed and where", exc_info=failure)  # may quote what somebody said
            state, error = "failed", type(failure).__name__
        await self._end(run, state, error)

    async def _end(self, run: SleepRun, state: RunState, error: str | None) -> None:
        await self._db.write(partial(runs.end, id=run.id, state=state, error=error, now=self._clock.now()))

    def _fell_idle(self, scope: Scope) -> None:
        self._spawn(self._by_idleness(scope))

    async def _by_idleness(self, scope: Scope) -> None:
        if scope not in self._due and await self._db.read(partial(sleep_notes.num_unseen, scope=scope)) > 0:
            self._due.add(scope)
            await self._begin(scope.tenant, scope.user, "idle", None)

    async def _by_schedule(self) -> None:
        while True:
            await asyncio.sleep(self._options.every_hours * _HOUR)
            # Time alone makes work for forgetting; for all else somebody must have said something.
            whose = sleep_notes.everybody if self._forgets else sleep_notes.unseen_users
            for scope in await self._db.read(whose):
                if scope not in self._due:
                    self._due.add(scope)
                    await self._begin(scope.tenant, scope.user, "schedule", None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and task.exception() is not None:
        logger.critical("a loop of sleep died", exc_info=task.exception())

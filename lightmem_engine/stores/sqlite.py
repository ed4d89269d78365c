"""One SQLite file, one writer thread, a few readers.

Writers hand in a function of a connection; the thread runs all functions that wait in one transaction (group commit),
each in its own savepoint, so that one failure undoes only itself. A caller is answered after the commit is on disk
(`synchronous=FULL`). Readers see the last commit (WAL). Deleted bytes are overwritten (`secure_delete`). Once the file
turns out to be damaged nothing more is written: what would be acknowledged might be lost in the repair.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lightmem_engine.errors import CorruptStore, LightMemError, StoreError
from lightmem_engine.runtime.failpoints import Failpoints

logger = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]

MAX_GROUP = 256
TIMEOUT_SECONDS = 30  # for a lock that another connection holds
NUM_READERS = 2
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@dataclass(frozen=True, slots=True)
class _Job:
    work: Work[Any]
    future: Future[Any]
    alone: bool = False


class Database:
    """Open with `Database(path)`, close with `aclose`. Functions handed in must not keep the connection."""

    def __init__(self, path: Path, failpoints: Failpoints | None = None) -> None:
        self.path = path
        self._failpoints = failpoints or Failpoints()
        self._writer = connect(path)
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._held: _Job | None = None  # taken from the queue, to be run by itself
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._readers = ThreadPoolExecutor(NUM_READERS, thread_name_prefix="lightmem-read")
        self._thread = threading.Thread(target=self._write_loop, name="lightmem-write", daemon=True)
        self._thread.start()
        self._closed = False
        self._follower: Callable[[sqlite3.Connection], None] | None = None
        self._damage: CorruptStore | None = None

    @property
    def is_sound(self) -> bool:
        """False once SQLite has found damage."""
        return self._damage is None

    async def write(self, work: Work[T]) -> T:
        """Run `work` in a durable transaction. Its own exceptions undo it and pass through; a failing commit or
        disk raises `StoreError`, a damaged file `CorruptStore`."""
        self._check_open()
        future: Future[T] = Future()
        self._jobs.put(_Job(work, future))
        return await asyncio.wrap_future(future)

    async def write_alone(self, work: Work[T]) -> T:
        """Run `work` on the writer's connection outside any transaction, between two groups of commits."""
        self._check_open()
        future: Future[T] = Future()
        self._jobs.put(_Job(work, future, alone=True))
        return await asyncio.wrap_future(future)

    async def prepare(self, work: Work[T]) -> T:
        """Run `work` on the writer's connection outside a transaction: for migrations, before anything else."""

        def run() -> T:
            try:
                return work(self._writer)
            except sqlite3.Error as error:
                raise translated(error, self.path) from error

        return await asyncio.to_thread(run)

    def follow(self, follower: Callable[[sqlite3.Connection], None] | None) -> None:
        """Have the writer call this after each commit, before it answers. It may read, and must not raise."""
        self._follower = follower

    async def read(self, work: Work[T]) -> T:
        """Run `work` on a read-only connection in another thread."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def aclose(self) -> None:
        """Finish queued writes, fold the WAL into the file, close."""
        if self._closed:
            return
        self._closed = True
        self._jobs.put(None)
        await asyncio.to_thread(self._thread.join)
        self._readers.shutdown(wait=True)
        for connection in self._connections:
            connection.close()
        self._writer.close()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreError("the database is closed")
        if self._damage is not None:
            raise CorruptStore(f"{self._damage}; nothing is stored until it is repaired")

    def _failure(self, error: sqlite3.Error) -> StoreError:
        """SQLite's error as ours; damage is remembered."""
        failure = translated(error, self.path)
        failure.__cause__ = error
        if isinstance(failure, CorruptStore) and self._damage is None:
            self._damage = failure
            logger.critical("%s is damaged: nothing is stored any more", self.path)
        return failure

    def _read(self, work: Work[T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect(self.path, read_only=True)
            self._connections.append(connection)
        try:
            return work(connection)
        except sqlite3.Error as error:
            raise self._failure(error) from error

    def _write_loop(self) -> None:
        while True:
            group = self._next_group()
            if group is None:
                return
            if group[0].alone:
                self._run_alone(group[0])
            else:
                self._commit(group)

    def _next_group(self) -> list[_Job] | None:
        """The next jobs to commit together, or one that runs by itself; None when the database closes."""
        first, self._held = self._held or self._jobs.get(), None
        if first is None:
            return None
        group = [first]
        while len(group) < MAX_GROUP and not first.alone:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)
                break
            if job.alone:
                self._held = job
                break
            group.append(job)
        return group

    def _run_alone(self, job: _Job) -> None:
        if not job.future.set_running_or_notify_cancel():
            return
        try:
            result = job.work(self._writer)
        except sqlite3.Error as error:
            job.future.set_exception(self._failure(error))
        else:
            job.future.set_result(result)

    def _commit(self, group: list[_Job]) -> None:
        jobs = [(job.work, job.future) for job in group if job.future.set_running_or_notify_cancel()]
        outcomes: list[tuple[Any, BaseException | None]] = []
        try:
            self._writer.execute("BEGIN IMMEDIATE")
            outcomes += [self._run(work) for work, _ in jobs]
            self._failpoints.reach("log.commit")
            self._writer.execute("COMMIT")
            if self._follower is not None:
                self._follower(self._writer)
        except sqlite3.Error as error:
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            failure = self._failure(error)
            outcomes = [(None, failure)] * len(jobs)
        self._failpoints.reach("ack")
        for (_, future), (result, failed) in zip(jobs, outcomes, strict=True):
            if failed is not None:
                future.set_exception(failed)
            else:
                future.set_result(result)

    def _run(self, work: Work[Any]) -> tuple[Any, BaseException | None]:
        """One job in its savepoint: its result, or what it raised (and then its changes are undone)."""
        self._writer.execute("SAVEPOINT work")
        try:
            result = work(self._writer)
        except sqlite3.IntegrityError as error:
            failure: BaseException = translated(error, self.path)
            failure.__cause__ = error
        except LightMemError as error:
            failure = error
        except (ValueError, TypeError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            failure = error  # a bug in the job: its caller gets it, its neighbours do not
        else:
            self._writer.execute("RELEASE work")
            return result, None
        self._writer.execute("ROLLBACK TO work")
        self._writer.execute("RELEASE work")
        return None, failure


def apart(connection: sqlite3.Connection, work: Callable[[], None]) -> Exception | None:
    """Do a part of a larger write by itself: if it fails, what it did is undone and the rest goes on. Trouble with the
    database passes through, it is the whole write's."""
    connection.execute("SAVEPOINT apart")
    failure: Exception | None = None
    try:
        work()
    except (sqlite3.Error, StoreError):
        raise
    except Exception as error:
        logger.error("a part of a write failed: %s", type(error).__name__)
        logger.debug("what failed and where", exc_info=error)  # may quote what somebody said
        failure = error
        connection.execute("ROLLBACK TO apart")
    connection.execute("RELEASE apart")
    return failure


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection in autocommit mode with the settings that every file of ours has. Raises `StoreError`."""
    try:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=TIMEOUT_SECONDS)
        connection.execute("PRAGMA foreign_keys = ON")
        if read_only:
            connection.execute("PRAGMA query_only = ON")
            return connection
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
    except sqlite3.Error as error:
        raise translated(error, path) from error
    return connection


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """SQLite's error as ours; the message names the file."""
    kind = CorruptStore if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGE else StoreError
    return kind(f"{path}: {error}")

"""One device, one thread, the most urgent work first, in batches of a token budget.

A *lane* is a function over a list of items (a classifier's `score`, an embedder's `encode`). A batch holds items of
one lane and one priority, up to the budget; background batches get a quarter of it, or what a few milliseconds take
where another process answers chats on the same device, so that a user waits for at most one small batch; `courtesy`
says whose turn it is. Callers that went away are dropped when the batch is cut. A failure reaches exactly the callers
whose items were in the batch. The thread sleeps on a condition variable; nothing polls.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lightmem_engine.errors import LightMemError, ModelError, Overloaded
from lightmem_engine.runtime.courtesy import Courtesy, Head, Pace, Slice
from lightmem_engine.types import Priority

Lane = Callable[[list[Any]], Iterable[Any]]  # one result per item, in order
BACKGROUND_SHARE = 4
TIDY_SECONDS = 5.0


@dataclass(slots=True)
class LaneUsage:
    """What a lane has done so far."""

    batches: int = 0
    items: int = 0
    tokens: int = 0
    seconds: float = 0.0


@dataclass(slots=True)
class _Call:
    """One caller's items and where their results go; `results` belongs to the worker thread until it is done."""

    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[list[Any]]
    results: list[Any]
    missing: int
    dropped: bool = False


@dataclass(order=True, slots=True)
class _Item:
    priority: int
    order: int
    lane: str = field(compare=False)
    value: Any = field(compare=False)
    tokens: int = field(compare=False)
    call: _Call = field(compare=False)
    index: int = field(compare=False)
    arrived: float = field(compare=False)


class DeviceWorker:
    """Owns the device's thread. `close` lets the running batch finish and fails what still waits."""

    def __init__(
        self,
        batch_tokens: int,
        max_queued_tokens: int,
        tidy: Callable[[], None] = lambda: None,
        *,
        slice: Slice | None = None,
    ) -> None:
        """tidy: called on the device's thread between two batches, every few seconds of work.   slice: a background
        batch, where chats are answered on the same device by another process."""
        self._batch_tokens = batch_tokens
        self._slice = slice
        self._courtesy = Courtesy()
        self._pause: float | None = None
        self._paces: dict[str, Pace] = defaultdict(Pace)
        self._max_queued_tokens = max_queued_tokens
        self._lanes: dict[str, Lane] = {}
        self._queues: dict[tuple[int, str], list[_Item]] = {}
        self._queued_tokens = 0
        self._tidy = tidy
        self._tidied = time.monotonic()
        self._order = itertools.count()
        self._wake = threading.Condition()
        self._closed = False
        self.usage: dict[str, LaneUsage] = defaultdict(LaneUsage)
        self._thread = threading.Thread(target=self._work, name="lightmem-device", daemon=True)
        self._thread.start()

    def add_lane(self, name: str, lane: Lane) -> None:
        """Register a lane; results come back in the order of the items."""
        self._lanes[name] = lane

    @property
    def queued_tokens(self) -> int:
        """Tokens that wait for the device."""
        return self._queued_tokens

    def users(self, count: int) -> None:
        """So many users wait for an answer that is computed on this device elsewhere."""
        with self._wake:
            self._courtesy.num_users = count
            if not count:
                self._wake.notify()

    async def run(self, lane: str, items: Sequence[Any], tokens: Sequence[int], priority: Priority) -> list[Any]:
        """Run all items through a lane, in as many batches as the budget asks for.

        Raises `Overloaded` when the queue is full, `ModelError` when the lane fails (its own `LightMemError`
        passes through unchanged).
        """
        if not items:
            return []
        loop = asyncio.get_running_loop()
        call = _Call(loop, loop.create_future(), [None] * len(items), len(items))
        with self._wake:
            if self._closed:
                raise Overloaded("the engine is closing")
            total = sum(tokens)
            if self._queued_tokens and self._queued_tokens + total > self._max_queued_tokens:
                raise Overloaded(f"{self._queued_tokens} tokens already wait for the device")
            queue = self._queues.setdefault((int(priority), lane), [])
            now = time.monotonic()
            for index, (value, size) in enumerate(zip(items, tokens, strict=True)):
                heapq.heappush(queue, _Item(int(priority), next(self._order), lane, value, size, call, index, now))
            self._queued_tokens += total
            self._wake.notify()
        try:
            return await call.future
        except asyncio.CancelledError:
            call.dropped = True
            raise

    def close(self) -> None:
        """Stop the thread; items that still wait fail with `Overloaded`. Blocks while a batch runs."""
        with self._wake:
            self._closed = True
            left = [item for queue in self._queues.values() for item in queue]
            self._queues.clear()
            self._wake.notify()
        self._thread.join()
        for call in {id(item.call): item.call for item in left}.values():
            self._resolve(call, Overloaded("the engine is closing"))

    def _work(self) -> None:
        while True:
            with self._wake:
                key = self._next()
                while key is None and not self._closed:
                    self._wake.wait(self._pause)
                    key = self._next()
                if key is None or self._closed:
                    return
                batch = self._cut(key)
            if batch:
                began = time.monotonic()
                self._run_batch(batch)
                if batch[0].priority != Priority.FOREGROUND:
                    self._courtesy.ran(began, time.monotonic())
                if time.monotonic() - self._tidied > TIDY_SECONDS:
                    self._tidy()
                    self._tidied = time.monotonic()

    def _next(self) -> tuple[int, str] | None:
        """Whose turn it is; None if nobody's, and then `_pause` says when to look again. The lock is held."""
        heads = {Head(key[0], queue[0].order, queue[0].arrived): key for key, queue in self._queues.items()}
        choice = self._courtesy.choose(heads, time.monotonic())
        self._pause = choice.wait
        return None if choice.head is None else heads[choice.head]

    def _cut(self, key: tuple[int, str]) -> list[_Item]:
        """A lane's next batch; the lock is held."""
        queue = self._queues[key]
        budget = self._batch_tokens
        if key[0] != Priority.FOREGROUND:
            budget //= BACKGROUND_SHARE
            if self._slice is not None:
                budget = min(budget, self._paces[key[1]].tokens(self._slice))
        batch: list[_Item] = []
        used = 0
        while queue and (not batch or used + queue[0].tokens <= budget):
            item = heapq.heappop(queue)
            self._queued_tokens -= item.tokens
            if not item.call.dropped:
                batch.append(item)
                used += item.tokens
        if not queue:
            del self._queues[key]
        return batch

    def _run_batch(self, batch: list[_Item]) -> None:
        name, started = batch[0].lane, time.perf_counter()
        try:
            results = list(self._lanes[name]([item.value for item in batch]))
            if len(results) != len(batch):
                raise ModelError(f"{name}: {len(results)} results for {len(batch)} items")
        except LightMemError as error:
            self._fail(batch, error)
            return
        except Exception as error:  # noqa: BLE001 - a lane may raise anything; every caller gets it as the cause
            failure = ModelError(f"{name}: {type(error).__name__}: {error}")
            failure.__cause__ = error
            self._fail(batch, failure)
            return
        usage, seconds, tokens = self.usage[name], time.perf_counter() - started, sum(item.tokens for item in batch)
        usage.batches += 1
        usage.items += len(batch)
        usage.tokens += tokens
        usage.seconds += seconds
        self._paces[name].ran(tokens, seconds)
        for item, result in zip(batch, results, strict=True):
            item.call.results[item.index] = result
            item.call.missing -= 1
            if not item.call.missing:
                self._resolve(item.call, None)

    def _fail(self, batch: list[_Item], error: LightMemError) -> None:
        for call in {id(item.call): item.call for item in batch}.values():
            call.dropped = True
            self._resolve(call, error)

    @staticmethod
    def _resolve(call: _Call, error: LightMemError | None) -> None:
        def settle() -> None:
            if call.future.done():
                return
            if error is None:
                call.future.set_result(call.results)
            else:
                call.future.set_exception(error)

        if not call.loop.is_closed():
            call.loop.call_soon_threadsafe(settle)

"""One thread that runs the steps of a model, the most urgent first."""

from __future__ import annotations

import heapq
import threading
from collections.abc import Callable
from concurrent.futures import Future
from itertools import count
from typing import Any, Protocol, TypeVar

from lightmem_engine.errors import BackendUnavailable

T = TypeVar("T")


class StepRunner(Protocol):
    """Runs one step at a time on a thread of its own; a smaller priority goes first, equal ones in order."""

    def submit(self, step: Callable[[], T], priority: int) -> Future[T]:
        """The future result. A step that is cancelled before it starts never runs; one that raises fails its future."""
        ...


class StepWorker:
    """The default runner. A step is short (one chunk of prefill, one token), so urgency waits for one step at most."""

    def __init__(self, name: str) -> None:
        self._steps: list[tuple[int, int, Callable[[], Any], Future[Any]]] = []
        self._order = count()
        self._changed = threading.Condition()
        self._open = True
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, step: Callable[[], T], priority: int) -> Future[T]:
        """See `StepRunner`. After `close` it raises `BackendUnavailable`."""
        future: Future[T] = Future()
        with self._changed:
            if not self._open:
                raise BackendUnavailable(f"{self._thread.name} is closed")
            heapq.heappush(self._steps, (priority, next(self._order), step, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Fail what waits with `BackendUnavailable`, finish the step that runs, end the thread. Idempotent."""
        with self._changed:
            self._open = False
            waiting, self._steps = self._steps, []
            self._changed.notify()
        for _, _, _, future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(BackendUnavailable(f"{self._thread.name} is closed"))
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        while (item := self._next()) is not None:
            step, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                result = step()
            # Whatever a step raises, SystemExit too, belongs to who waits for it; a thread that ended here would leave
            # all later steps waiting for good.
            except BaseException as error:  # noqa: BLE001
                future.set_exception(error)
            else:
                future.set_result(result)

    def _next(self) -> tuple[Callable[[], Any], Future[Any]] | None:
        with self._changed:
            while self._open and not self._steps:
                self._changed.wait()
            if not self._open:
                return None
            _, _, step, future = heapq.heappop(self._steps)
            return step, future

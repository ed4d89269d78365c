"""Work that its caller may stop waiting for, and that ends in order all the same."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class LateWork:
    """Keeps hold of work that nobody waits for any more, until it has ended. Belongs to one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Future[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def within(self, work: Coroutine[Any, Any, T], seconds: float) -> T:
        """The result of `work`. At the deadline `TimeoutError`, at once: the work is cancelled, not waited for."""
        task = asyncio.ensure_future(work)
        try:
            done, _ = await asyncio.wait({task}, timeout=seconds)
        except asyncio.CancelledError:
            task.cancel()
            self._hold(task)
            raise
        if not done:
            task.cancel()
            self._hold(task)
            raise TimeoutError
        return task.result()

    async def kept(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which goes on to its end even if the caller is cancelled."""
        task = asyncio.ensure_future(work)
        self._hold(task)
        return await asyncio.shield(task)

    async def aclose(self) -> None:
        """Wait until all has ended."""
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _hold(self, task: asyncio.Future[Any]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Future[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, so that nobody reports it as lost

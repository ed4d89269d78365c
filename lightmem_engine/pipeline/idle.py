"""Sessions that fall silent."""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)


class IdleTimers(Generic[K]):
    """Calls `expired(key)` once a key has not been touched until its deadline (monotonic seconds). One timer is armed
    at a time, for the earliest deadline."""

    def __init__(self, expired: Callable[[K], None], monotonic: Callable[[], float]) -> None:
        self._expired = expired
        self._monotonic = monotonic
        self._deadlines: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._order = 0
        self._timer: asyncio.TimerHandle | None = None

    def touch(self, key: K, deadline: float) -> None:
        """Set or move the deadline of a key."""
        known = key in self._deadlines
        self._deadlines[key] = deadline
        if not known:
            self._push(key, deadline)
            self._arm()

    def forget(self, keys: Callable[[K], bool]) -> None:
        """Drop the keys that `keys` picks; they do not expire."""
        for key in [key for key in self._deadlines if keys(key)]:
            del self._deadlines[key]
        self._heap = [item for item in self._heap if item[2] in self._deadlines]
        heapq.heapify(self._heap)
        self._arm()

    def close(self) -> None:
        """Forget everything."""
        self._deadlines.clear()
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _push(self, key: K, deadline: float) -> None:
        self._order += 1
        heapq.heappush(self._heap, (deadline, self._order, key))

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._heap:
            delay = max(0.0, self._heap[0][0] - self._monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._timer = None
        now = self._monotonic()
        while self._heap and self._heap[0][0] <= now:
            _, _, key = heapq.heappop(self._heap)
            deadline = self._deadlines.get(key)
            if deadline is None:
                continue
            if deadline > now:
                self._push(key, deadline)  # touched since: look again at its new deadline
            else:
                del self._deadlines[key]
                self._expired(key)
        self._arm()

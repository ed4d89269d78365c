"""Connectors in other processes that use kept caches: they are told what stands and what has ended, and an erasure
waits until each of them knows."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from lightmem_engine.wire_kv import LEASE_SECONDS, POLL_SECONDS

_MARGIN_SECONDS = 2.0  # between their clock and ours
MAX_EVENTS = 10_000  # who has missed more begins anew


class Followers:
    """Belongs to one event loop. standing: all manifests that stand."""

    queued = 0

    def __init__(self, standing: Callable[[], list[str]]) -> None:
        self._standing = standing
        self._epoch = uuid.uuid4().hex
        self._seq = 0
        self._events: deque[tuple[int, bool, str]] = deque(maxlen=MAX_EVENTS)
        self._heard: dict[str, tuple[int, float]] = {}  # what each has asked from, and when
        self._news = asyncio.Condition()

    async def tell(self, ids: Iterable[str], *, stands: bool) -> None:
        """Manifests begin to stand, or have ended."""
        async with self._news:
            for id in ids:
                self._seq += 1
                self._events.append((self._seq, stands, id))
            self._news.notify_all()

    async def follow(self, follower: str, epoch: str, seq: int) -> dict[str, Any]:
        """What is new since `seq`, waiting a while for it. Asking tells that everything up to `seq` is known there."""
        known = seq if epoch == self._epoch else -1
        async with self._news:
            self._heard[follower] = (known, time.monotonic())
            self._news.notify_all()
            if known == self._seq:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait_for(lambda: self._seq != known), POLL_SECONDS)
            oldest = self._events[0][0] if self._events else self._seq + 1
            if known < 0 or known + 1 < oldest:
                return self._answer(reset=True, standing=self._standing(), ended=[])
            fresh = [event for event in self._events if event[0] > known]
            ended = {id for _, stands, id in fresh if not stands}
            standing = [id for _, stands, id in fresh if stands and id not in ended]
            return self._answer(reset=False, standing=standing, ended=sorted(ended))

    async def settle(self) -> None:
        """Wait until all who follow know what has been told by now, or have been silent for so long that nothing holds
        with them any more."""
        wanted = self._seq
        async with self._news:
            while True:
                now = time.monotonic()
                patience = LEASE_SECONDS + _MARGIN_SECONDS
                self._heard = {id: heard for id, heard in self._heard.items() if now - heard[1] < patience}
                behind = [at for known, at in self._heard.values() if known < wanted]
                if not behind:
                    return
                try:
                    await asyncio.wait_for(self._news.wait(), min(behind) + patience - now)
                except TimeoutError:
                    continue

    def _answer(self, *, reset: bool, standing: list[str], ended: list[str]) -> dict[str, Any]:
        return {"epoch": self._epoch, "seq": self._seq, "reset": reset, "standing": standing, "ended": ended}

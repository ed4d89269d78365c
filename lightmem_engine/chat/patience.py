"""Waking the stages a little later, where the model that answers also tells what they need to know."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lightmem_engine.types import Scope

Wake = Callable[[Scope, str], None]


class Patience:
    """Calls `wake` after so many seconds. Belongs to one event loop; what a closed one would have woken is found in the
    log at the next start."""

    def __init__(self, wake: Wake, seconds: float) -> None:
        self._wake = wake
        self._seconds = seconds
        self._waiting: set[asyncio.TimerHandle] = set()
        self._is_closed = False

    def __call__(self, scope: Scope, session: str) -> None:
        """There is something new in a session."""
        if self._is_closed:
            return
        loop = asyncio.get_running_loop()

        def due() -> None:
            self._waiting.discard(handle)
            self._wake(scope, session)

        handle = loop.call_later(self._seconds, due)
        self._waiting.add(handle)

    def close(self) -> None:
        """Wake nobody any more."""
        self._is_closed = True
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()

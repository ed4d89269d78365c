"""Which users have work, served in turn."""

from __future__ import annotations

import asyncio

from lightmem_engine.types import Scope


class ReadySet:
    """Round robin without doubles: a user who is being served waits at the end of the queue for the next turn.

    Belongs to one event loop.
    """

    def __init__(self) -> None:
        self._waiting: dict[Scope, None] = {}
        self._serving: set[Scope] = set()
        self._again: set[Scope] = set()
        self._event = asyncio.Event()

    def put(self, scope: Scope) -> None:
        """This user has work."""
        if scope in self._serving:
            self._again.add(scope)
        else:
            self._waiting[scope] = None
            self._event.set()

    async def take(self, limit: int) -> list[Scope]:
        """Up to `limit` users to serve now; waits until there is one. Each must come back through `done`."""
        while not self._waiting:
            self._event.clear()
            await self._event.wait()
        taken = list(self._waiting)[:limit]
        for scope in taken:
            del self._waiting[scope]
        self._serving.update(taken)
        return taken

    def done(self, scope: Scope, *, again: bool = False) -> None:
        """Served; `again` if work is left."""
        self._serving.discard(scope)
        if again or scope in self._again:
            self._again.discard(scope)
            self.put(scope)

    def __contains__(self, scope: Scope) -> bool:
        return scope in self._waiting or scope in self._serving

"""The owner's three calls, as a chat makes them: bounded in time, and never the reason that a chat fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from lightmem_engine.client import EngineClient
from lightmem_engine.errors import EngineDown, LightMemError
from lightmem_engine.runtime.complain import complain
from lightmem_engine.types import OpenTurn, Scope, TurnOptions

T = TypeVar("T")
CALL_SECONDS = 10.0  # for an owner that is alive and does not answer; what is dead is noticed at once

logger = logging.getLogger(__name__)


class OwnerTurns:
    """See `serving.backends.Turns`. Belongs to one event loop.

    The foreground is announced beside the chat, not before it: nobody waits for the announcement.
    """

    def __init__(self, client: EngineClient, seconds: float = CALL_SECONDS) -> None:
        self._client = client
        self._seconds = seconds
        self._announcing: set[asyncio.Task[None]] = set()

    async def open_turn(
        self, scope: Scope | None, messages: Sequence[Mapping[str, Any]], options: TurnOptions
    ) -> OpenTurn:
        """As the engine's; `EngineDown` if the owner does not answer."""
        return await self._bounded(self._client.open_turn(scope, messages, options))

    async def close_turn(
        self, turn_id: str, reply: str, status: str, *, tool_calls: Sequence[Mapping[str, Any]] | None = None
    ) -> bool:
        """As the engine's; `EngineDown` if the owner does not answer."""
        return await self._bounded(self._client.close_turn(turn_id, reply, status, tool_calls=tool_calls))

    @asynccontextmanager
    async def foreground(self) -> AsyncIterator[None]:
        """As the engine's; nothing happens while there is no owner."""
        entering = asyncio.ensure_future(self._enter())
        try:
            yield
        finally:
            leaving = asyncio.ensure_future(self._leave(entering))
            self._announcing.add(leaving)
            leaving.add_done_callback(self._announcing.discard)

    async def aclose(self) -> None:
        """Finish what is being announced; the connections are the client's owner's to close."""
        if self._announcing:
            await asyncio.wait(self._announcing)

    async def _enter(self) -> str | None:
        try:
            return await self._bounded(self._client.enter_foreground())
        except LightMemError as error:
            complain(logger, "the owner was not told of a chat", error, logging.DEBUG)
            return None

    async def _leave(self, entering: asyncio.Future[str | None]) -> None:
        lease = await entering
        if lease is None:
            return
        try:
            await self._bounded(self._client.leave_foreground(lease))
        except LightMemError as error:
            complain(logger, "the owner was not told of the end of a chat", error, logging.DEBUG)

    async def _bounded(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            async with asyncio.timeout(self._seconds):
                return await work
        except TimeoutError as error:
            raise EngineDown(f"the owner of the memory did not answer within {self._seconds:.0f} s") from error

"""The part of the client that is about chat turns; the owner's socket alone answers it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from lightmem_engine.types import OpenTurn, Scope, TurnOptions
from lightmem_engine.wire import options_json, turn_of


class TurnClient:
    """Chat turns and the foreground over the owner's socket. `_post` is the client's own."""

    async def _post(self, scope: Scope | None, path: str, body: Mapping[str, Any]) -> Any:
        raise NotImplementedError

    async def open_turn(
        self, scope: Scope | None, messages: Sequence[Mapping[str, Any]], options: TurnOptions
    ) -> OpenTurn:
        """See `Engine.open_turn`."""
        return turn_of(await self._post(scope, "/turns/open", {"messages": messages, "options": options_json(options)}))

    async def close_turn(
        self,
        turn_id: str,
        reply: str,
        status: str,
        *,
        tool_calls: Sequence[Mapping[str, Any]] | None = None,
    ) -> bool:
        """See `Engine.close_turn`."""
        body = {"turn_id": turn_id, "reply": reply, "status": status, "tool_calls": tool_calls}
        return bool((await self._post(None, "/turns/close", body))["stored"])

    @asynccontextmanager
    async def foreground(self) -> AsyncIterator[None]:
        """See `Engine.foreground`. The owner lets go by itself after a few minutes."""
        lease = await self.enter_foreground()
        try:
            yield
        finally:
            await self.leave_foreground(lease)

    async def enter_foreground(self) -> str:
        """Hold the foreground; the name to give it back by."""
        return str((await self._post(None, "/foreground", {"action": "enter"}))["lease"])

    async def leave_foreground(self, lease: str) -> None:
        """Give it back."""
        await self._post(None, "/foreground", {"action": "leave", "lease": lease})

    async def owner(self, *, counts: bool = False) -> dict[str, Any]:
        """How the owner is: `sound` (what is told can be stored), `queued_tokens` of its device, and its `stats`.

        counts: of everything; otherwise of nobody, which costs nothing.
        """
        return dict(await self._post(None, "/owner", {"counts": counts}))

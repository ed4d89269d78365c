"""Chat turns for other processes of this machine, on the owner's socket alone."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI, Request

from lightmem_engine.errors import InvalidInput
from lightmem_engine.protocols import Engine
from lightmem_engine.serving.access import engine_of, scope_of
from lightmem_engine.serving.memory_schemas import CloseTurnBody, ForegroundBody, OpenTurnBody, OwnerBody
from lightmem_engine.types import Scope, TurnOptions
from lightmem_engine.wire import turn_json

LEASE_SECONDS = 600.0
OWNER_PATH = "/v1/memory/owner"
TURN_PATHS = frozenset({"/v1/memory/turns/open", "/v1/memory/turns/close", "/v1/memory/foreground", OWNER_PATH})
_NOBODY = Scope(user="-")  # counting one user's messages is cheap however many there are


class Leases:
    """Holds of the foreground by other processes. One that is never given back ends by itself."""

    def __init__(self, engine: Engine, seconds: float = LEASE_SECONDS) -> None:
        self._engine = engine
        self._seconds = seconds
        self._held: dict[str, tuple[AbstractAsyncContextManager[None], asyncio.TimerHandle]] = {}
        self._lapsing: set[asyncio.Task[bool]] = set()

    async def enter(self) -> str:
        """Hold the foreground; the name to give it back by."""
        hold = self._engine.foreground()
        await hold.__aenter__()
        lease = uuid.uuid4().hex
        self._held[lease] = (hold, asyncio.get_running_loop().call_later(self._seconds, self._lapse, lease))
        return lease

    async def leave(self, lease: str) -> bool:
        """Give it back; False if it had ended before."""
        found = self._held.pop(lease, None)
        if found is None:
            return False
        hold, timer = found
        timer.cancel()
        await hold.__aexit__(None, None, None)
        return True

    def _lapse(self, lease: str) -> None:
        task = asyncio.ensure_future(self.leave(lease))
        self._lapsing.add(task)
        task.add_done_callback(self._lapsing.discard)


def add_turn_routes(app: FastAPI, engine: Engine) -> None:
    """Open, close, foreground; and how the owner is."""
    leases = Leases(engine)

    @app.post("/v1/memory/turns/open")
    async def open_turn(request: Request, body: OpenTurnBody) -> dict[str, Any]:
        scope = None if body.user_id is None else scope_of(request, body.user_id)
        options = TurnOptions(**body.options.model_dump())
        return turn_json(await engine_of(request).open_turn(scope, body.messages, options))

    @app.post("/v1/memory/turns/close")
    async def close_turn(request: Request, body: CloseTurnBody) -> dict[str, Any]:
        engine = engine_of(request)
        stored = await engine.close_turn(body.turn_id, body.reply, body.status, tool_calls=body.tool_calls)
        return {"stored": stored}

    @app.post("/v1/memory/foreground")
    async def foreground(body: ForegroundBody) -> dict[str, Any]:
        if body.action == "enter":
            return {"lease": await leases.enter()}
        if body.lease is None:
            raise InvalidInput("leave needs the lease that enter gave")
        return {"left": await leases.leave(body.lease)}

    @app.post(OWNER_PATH)
    async def owner(request: Request, body: OwnerBody) -> dict[str, Any]:
        engine = engine_of(request)
        stats = await engine.stats(None if body.counts else _NOBODY)
        return {"sound": engine.is_sound, "queued_tokens": engine.queued_tokens, "stats": stats}

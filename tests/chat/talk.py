"""A client that talks to an engine as OpenAI clients do: it keeps the history and resends it whole."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from lightmem_engine.engine import LocalEngine
from lightmem_engine.types import OpenTurn, Scope, TurnOptions
from tests.support.memory import assistant, user

ANN = Scope("ann")


class Talk:
    """One conversation of one user. `history` is what the client shows on its screen."""

    def __init__(self, engine: LocalEngine, scope: Scope = ANN, system: str = "", **options: Any) -> None:
        self.engine = engine
        self.scope = scope
        self.options = options
        self.system = [{"role": "system", "content": system}] if system else []
        self.history: list[dict[str, Any]] = []

    async def open(self, **options: Any) -> OpenTurn:
        """Send the history as it stands."""
        messages = [*self.system, *self.history]
        return await self.engine.open_turn(self.scope, messages, TurnOptions(**(self.options | options)))

    async def say(self, text: str, reply: str | None = None, **options: Any) -> OpenTurn:
        """One whole turn; the reply is made of the question if none is given."""
        self.history.append(user(text))
        return await self.answer(f"I hear: {text}" if reply is None else reply, **options)

    async def answer(self, reply: str, status: str = "complete", **options: Any) -> OpenTurn:
        """Send the history and take this reply."""
        turn = await self.open(**options)
        await self.engine.close_turn(turn.turn_id, reply, status)
        self.history.append(assistant(reply))
        return turn

    async def edit(self, place: int, text: str, reply: str | None = None) -> OpenTurn:
        """Change the message at `place`, and let everything behind it go."""
        del self.history[place:]
        return await self.say(text, reply)

    async def regenerate(self, reply: str) -> OpenTurn:
        """Ask for another last reply."""
        del self.history[-1]
        return await self.answer(reply)


def texts(messages: list[dict[str, Any]]) -> list[str]:
    """What was said."""
    return [message["content"] for message in messages]


def kept(directory: Path, scope: Scope = ANN, session: str | None = None) -> list[str]:
    """The texts of messages in the log that no branch has superseded, in their order."""
    return _texts(directory, scope, session, "superseded_ms IS NULL")


def replaced(directory: Path, scope: Scope = ANN, session: str | None = None) -> list[str]:
    """The texts of messages that a branch has superseded."""
    return _texts(directory, scope, session, "superseded_ms IS NOT NULL")


def _texts(directory: Path, scope: Scope, session: str | None, which: str) -> list[str]:
    connection = sqlite3.connect(directory / "memory.db")
    try:
        rows = connection.execute(
            f"SELECT content FROM message WHERE tenant = ? AND user = ? AND (? IS NULL OR session = ?) AND {which} "
            "ORDER BY seq",
            (scope.tenant, scope.user, session, session),
        )
        return [text for (text,) in rows]
    finally:
        connection.close()

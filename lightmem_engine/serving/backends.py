"""What a chat goes between: the memory of its turns, and whoever answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from lightmem_engine.types import OpenTurn, Scope, TurnOptions

RawHeaders = Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request as it came.

    raw: the body's bytes.   body: the same, parsed; None if it is no JSON object.   headers: names in lower case.
    """

    raw: bytes
    body: Mapping[str, Any] | None
    headers: RawHeaders
    query: bytes = b""
    request_id: str = ""
    tenant: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer that has begun.

    headers: as they go to the client.   is_stream: the body is server-sent events.   foreign: another server wrote it.
    body: its bytes; may raise `LightMemError` half-way.   close: releases the model, at once if it still works.
    """

    status: int
    headers: RawHeaders
    body: AsyncIterator[bytes]
    close: Callable[[], Awaitable[None]]
    is_stream: bool = False
    foreign: bool = field(default=False)


class Turns(Protocol):
    """The three calls of `Engine` that a chat needs."""

    async def open_turn(
        self, scope: Scope | None, messages: Sequence[Mapping[str, Any]], options: TurnOptions
    ) -> OpenTurn:
        """See `Engine.open_turn`."""
        ...

    async def close_turn(
        self, turn_id: str, reply: str, status: str, *, tool_calls: Sequence[Mapping[str, Any]] | None = None
    ) -> bool:
        """See `Engine.close_turn`."""
        ...

    def foreground(self) -> AbstractAsyncContextManager[None]:
        """See `Engine.foreground`."""
        ...


class Backend(Protocol):
    """A model behind OpenAI's wire format."""

    async def begin(self, request: ChatRequest, turn: OpenTurn | None) -> Answer:
        """Begin to answer. Raises `LightMemError` while there is nothing to send yet.

        turn: what memory made of the request; None sends it on exactly as it came.
        """
        ...

    async def check(self) -> bool:
        """Whether the model can be reached now."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...

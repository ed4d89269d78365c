"""Who answers a chat: the seam between memory and the model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lightmem_engine.types import CacheOwner

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


@dataclass(frozen=True, slots=True)
class Caches:
    """Who may share KV caches of a prompt, and what a kept one belongs to."""

    salt: str = field(repr=False)
    owner: CacheOwner | None = None


class Backend(Protocol):
    """A model behind OpenAI's wire format."""

    async def begin(
        self, request: ChatRequest, messages: Sequence[Mapping[str, Any]] | None, caches: Caches | None = None
    ) -> Answer:
        """Begin to answer. Raises `LightMemError` while there is nothing to send yet.

        messages: what memory made of the request's; None sends the request on exactly as it came.   caches: None: of
        nobody in particular.
        """
        ...

    async def check(self) -> bool:
        """Whether the model can be reached now."""
        ...

    async def aclose(self) -> None:
        """Release connections."""
        ...

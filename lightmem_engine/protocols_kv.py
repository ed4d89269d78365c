"""The seams of kept KV caches."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from lightmem_engine.types import Priority, Prompt


class ReadsAhead(Protocol):
    """A model that can read the beginning of a prompt before anybody asks, and keep what it made of it."""

    async def prefill(self, prompt: Prompt, beside: Prompt, priority: Priority) -> int:
        """Read what two prompts begin with, and keep it for the owner of the first; how many tokens that is."""
        ...


@runtime_checkable
class KnowsCaches(Protocol):
    """A model that can tell what it would have to compute."""

    async def uncached(self, prompt: Prompt, num_read: int) -> int | None:
        """How many tokens of a prompt it would compute now, known or estimated; None if it cannot tell.

        num_read: so many of the messages it has just read or written, under the salt of the prompt.
        """
        ...


class KeepsCaches(Protocol):
    """The part of an engine that is about kept KV caches."""

    async def kv_stats(self) -> dict[str, Any]:
        """What is kept of KV caches, and what has been counted since the start."""
        ...

    async def kv_verify(self) -> dict[str, int]:
        """Read every chunk of them; counts `ok`, `damaged` (removed) and `unreadable`."""
        ...

    async def kv_purge(self, tenant: str, user: str | None = None) -> int:
        """End and remove those of a user, or of a whole tenant; how many there were."""
        ...

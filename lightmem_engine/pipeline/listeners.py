"""Whom the stages tell what has happened."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from lightmem_engine.types import Scope


async def _nobody(scope: Scope) -> None:
    """Nobody waits for news of extraction."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told what. heard: a user said something.   extracted: new entries of a user may be there; what waits for
    them waits for this, too."""

    heard: Callable[[Scope], None] = lambda scope: None
    extracted: Callable[[Scope], Awaitable[None]] = _nobody

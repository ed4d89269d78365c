"""Run a batch; when it fails, split it until only the poison is left.

An unreachable backend, a full queue or a troubled disk is nobody's fault: the batch waits and is tried again, for as
long as it takes. Any other failure of several items splits the batch; a single item gets `max_attempts`, then it is
given up with its error.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightmem_engine.errors import BackendUnavailable, Overloaded, StoreError

logger = logging.getLogger(__name__)

T = TypeVar("T")
R = TypeVar("R")

TRANSIENT = (BackendUnavailable, Overloaded, StoreError)
MAX_PAUSE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Poison:
    """An item that no attempt got through."""

    error: str
    attempts: int


@dataclass(frozen=True, slots=True)
class Retry:
    """How often and how patiently. `on_wait` hears of every transient failure before the pause."""

    max_attempts: int
    backoff_seconds: float
    on_wait: Callable[[Exception], None] = lambda error: None
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep

    async def pause(self, attempt: int) -> None:
        """Wait before the next attempt; `attempt` counts the failures so far."""
        await self.sleep(min(self.backoff_seconds * 2 ** min(attempt - 1, 16), MAX_PAUSE_SECONDS))


async def run_bisecting(
    items: Sequence[T], work: Callable[[Sequence[T]], Awaitable[Sequence[R]]], retry: Retry
) -> list[R | Poison]:
    """One result per item, in order; `work` returns one per item it is given, or raises."""
    failures = waits = 0
    while items:
        try:
            return list(await work(items))
        except TRANSIENT as error:
            retry.on_wait(error)
            waits += 1
            await retry.pause(waits)
        except Exception as error:
            if len(items) > 1:
                middle = len(items) // 2
                left = await run_bisecting(items[:middle], work, retry)
                return left + await run_bisecting(items[middle:], work, retry)
            logger.warning("an item failed: %s", type(error).__name__)
            logger.debug("what failed and where", exc_info=error)  # may quote what somebody said
            failures += 1
            if failures >= retry.max_attempts:
                return [Poison(describe(error), failures)]
            await retry.pause(failures)
    return []


def describe(error: BaseException) -> str:
    """What is kept of a failure beside the item that was given up."""
    cause = f" (from {type(error.__cause__).__name__})" if error.__cause__ else ""
    return f"{type(error).__name__}: {error}{cause}"[:1000]

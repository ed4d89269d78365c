"""CPU work beside the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run(work: Callable[[], T], *, inline: bool) -> T:
    """Do CPU work, in a thread unless it is small. A cancelled caller still waits for the thread to leave, because
    it holds the lock of what the thread works on."""
    if inline:
        return work()
    task = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            try:
                await asyncio.wait([task])
            except asyncio.CancelledError:
                continue
        task.exception()  # seen, so that nobody reports it as lost
        raise

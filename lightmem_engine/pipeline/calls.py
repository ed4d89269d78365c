"""The models as the stages call them: async, in batches, at one priority."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from lightmem_engine.runtime.batcher import DeviceWorker
from lightmem_engine.types import Priority, Vectors, Window

CLASSIFY, EMBED, SHORTEN = "classify", "embed", "shorten"


class ModelCalls:
    """The models as async functions over the device worker, at one priority."""

    def __init__(self, worker: DeviceWorker, priority: Priority) -> None:
        self._worker = worker
        self._priority = priority

    async def classify(self, windows: Sequence[Window]) -> list[Any]:
        """One classifier pass over all windows."""
        sizes = [sum(map(_estimate, window.texts)) for window in windows]
        return await self._worker.run(CLASSIFY, windows, sizes, self._priority)

    async def shorten(self, texts: Sequence[str]) -> list[Any]:
        """Each text compressed by itself."""
        return await self._worker.run(SHORTEN, texts, list(map(_estimate, texts)), self._priority)

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim], unit rows."""
        rows = await self._worker.run(EMBED, texts, list(map(_estimate, texts)), self._priority)
        return np.stack(rows) if rows else np.zeros((0, 0), np.float32)


def _estimate(text: str) -> int:
    """About how many tokens a text has; batches are cut by it, nothing is decided by it."""
    return len(text) // 4 + 2

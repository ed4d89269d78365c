"""How long recall may hold up a chat turn, and recall that keeps to it.

The steps down: words and meaning; words alone, when the embedding does not come in time; the session's block alone,
when the search does not; nothing, when the store does not answer either. A search that is late is abandoned: it is
cancelled and nobody waits for it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Sequence

from lightmem_engine.errors import LightMemError
from lightmem_engine.runtime.complain import complain
from lightmem_engine.types import Vectors

logger = logging.getLogger(__name__)

LEXICAL_ONLY, BLOCK_ONLY, NO_RECALL = "lexical_only", "block_only", "no_recall"
CUDA_MS = 50.0
# Beside an answer that takes a processor seconds, half a second of memory is little; a shared machine needs the slack.
CPU_FLOOR_MS = 500.0
EMBEDDING_SHARE = 0.7  # of the time that is left, for the question's embedding
_SAMPLE = "The boat leaves the harbour at nine and comes back before the evening tide. "


async def automatic(kind: str, embed: Callable[[Sequence[str]], Awaitable[Vectors]], batch_tokens: int) -> float:
    """Milliseconds for recall where nobody has set them; on a CPU twice what a question and one background batch
    before it take.

    kind: of the device.   batch_tokens: of a background batch.
    """
    if kind == "cuda":
        return CUDA_MS
    long = _SAMPLE * 16
    try:
        await embed([_SAMPLE])
        started = time.perf_counter()
        await embed([_SAMPLE])
        await embed([long] * max(1, 4 * batch_tokens // len(long)))
    except LightMemError as error:
        complain(logger, "the time of recall could not be measured", error)
        return CPU_FLOOR_MS
    return max(CPU_FLOOR_MS, 2000 * (time.perf_counter() - started))


class Deadline:
    """A point in time that work is done before, or not at all."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left; never negative."""
        return max(0.0, self._end - time.monotonic())

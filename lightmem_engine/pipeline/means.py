"""What a run of sleep works with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from lightmem_engine.pipeline.bisect import Retry
from lightmem_engine.protocols import Clock
from lightmem_engine.runtime.failpoints import Failpoints
from lightmem_engine.sleep.decide import Decider
from lightmem_engine.sleep.queue import TopK
from lightmem_engine.sleep.summarize import Summarizer
from lightmem_engine.stores.memory_db import MemoryDB
from lightmem_engine.stores.reembed import Spoken
from lightmem_engine.types import Vectors

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]


@dataclass(frozen=True, slots=True)
class Reach:
    """What a model that decides is asked about. max_notes: in one prompt.   threshold: lowest cosine of a pair.
    is_small: its calls cost next to nothing, and it is easily confused. It is asked about one entry at a time, about
    pairs that have no word in common, too, but not about those that are about different things in so many words, nor
    about corrections that rules can see."""

    max_notes: int
    threshold: float
    is_small: bool


@dataclass(frozen=True, slots=True)
class Means:
    """Models, stores and limits. decider: None where rules decide alone.   summarizer: None for no summaries.
    at_once: calls in flight."""

    db: MemoryDB
    topk: TopK
    embed: Embed
    embed_model: str
    spoken: Spoken
    decider: Decider | None
    summarizer: Summarizer | None
    at_once: int
    reach: Reach
    retry: Retry
    clock: Clock
    failpoints: Failpoints
    forget_prompts: Callable[[], Awaitable[None]]

"""What a search holds between its steps."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Sequence

from lightmem_engine.long_term.rank import Strategy, has
from lightmem_engine.protocols import SearchIndex
from lightmem_engine.types import Floats, IndexDoc, Vector

_INLINE_DOCS = 32  # fewer changes than these are applied on the event loop itself


@dataclasses.dataclass(slots=True)
class User:
    """The cached index of one user."""

    index: SearchIndex
    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    intact: bool = True  # false while changes are half applied


@dataclasses.dataclass(frozen=True, slots=True)
class Signals:
    """What was found out before ranking; `lexical` holds for `index` as it was at `seq`."""

    vector: Vector | None
    lexical: Floats | None = None
    index: SearchIndex | None = None
    seq: int = 0


def take_in(index: SearchIndex, docs: Sequence[IndexDoc], seq: int) -> None:
    """Apply changes; an index built from nothing is verified before it answers."""
    is_new = index.applied_seq == 0
    index.apply(docs, seq)
    if is_new:
        index.check()


def worded(strategy: Strategy) -> Strategy:
    """What is left of a strategy without the question's vector."""
    return "context+graph" if has(strategy, "graph") else "context"


def is_small(docs: Sequence[IndexDoc]) -> bool:
    """Whether changes are few enough to be applied at once."""
    return len(docs) <= _INLINE_DOCS and sum(len(doc.text) for doc in docs) <= _INLINE_DOCS * 1000

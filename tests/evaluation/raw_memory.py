"""A memory without an engine: raw turns, cut into stretches, behind the search of the product."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from lightmem_engine.config import EngineConfig
from lightmem_engine.long_term.memory import LongTermMemory
from lightmem_engine.long_term.rank import DEFAULT_WEIGHTS, Weights
from lightmem_engine.mentions import names_in
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.types import Hit, IndexDoc, Message, Role, Scope, Vectors
from tests.long_term.feed import MemoryFeed

EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
ROLES: dict[str, Role] = {"user": "user", "assistant": "assistant", "system": "system", "tool": "tool"}
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]
Compress = Callable[[Sequence[str]], list[str]]


class Now:
    """A clock far after every conversation."""

    def now(self) -> datetime:
        return datetime(2100, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


@dataclass
class _Pending:
    doc: IndexDoc
    source: str


def stretches(text: str, max_words: int = 120) -> list[str]:
    """Whole sentences and lines, packed up to a number of words."""
    parts: list[list[str]] = [[]]
    for sentence in re.split(r"(?<=[.!?])\s+|\n+", text):
        split = sentence.split()
        if parts[-1] and len(parts[-1]) + len(split) > max_words:
            parts.append([])
        while len(split) > max_words:
            parts[-1:] = [split[:max_words], []]
            split = split[max_words:]
        parts[-1] += split
    return [" ".join(part) for part in parts if part] or [text]


class RawMemory:
    """Has the face of `AsyncMemory` that a replay needs."""

    def __init__(
        self,
        embed: Embed,
        dim: int,
        config: EngineConfig | None = None,
        compress: Compress = list,
        weights: Weights = DEFAULT_WEIGHTS,
    ) -> None:
        self.feed = MemoryFeed()
        config = config or EngineConfig()
        self.recall = LongTermMemory(self.feed, lambda: UserIndex(dim), embed, config, Now(), weights=weights)
        self._embed = embed
        self._compress = compress
        self._pending: dict[str, list[_Pending]] = {}
        self._seq = 0

    async def add(
        self, messages: Sequence[Message], *, user_id: str, session_id: str | None = None, timestamp: Any = None
    ) -> None:
        start = EPOCH if timestamp is None else datetime.fromisoformat(timestamp).replace(tzinfo=UTC)
        for i, message in enumerate(messages):
            self._seq += 1
            for piece, text in enumerate(stretches(message.content)):
                doc = IndexDoc(
                    "put",
                    f"m{self._seq}.{piece}",
                    f"{user_id}:{self._seq}.{piece}",
                    session=session_id or "",
                    position=(self._seq, piece),
                    state="active",
                    role=ROLES[message.role],
                    speaker=message.name or message.role,
                    text=text,
                    names=tuple(names_in(text)),
                    event_time=start + timedelta(seconds=i),
                    recorded_at=start,
                )
                self._pending.setdefault(user_id, []).append(_Pending(doc, message.id or ""))

    async def flush(self, *, user_id: str | None = None) -> None:
        for user in [user_id] if user_id else list(self._pending):
            pending = self._pending.pop(user, [])
            said = [f"{p.doc.speaker[:1].upper()}{p.doc.speaker[1:]} said, {p.doc.text}" for p in pending]
            vectors = await self._embed(said) if said else np.empty((0, 0), np.float32)
            texts = self._compress([p.doc.text for p in pending])
            for p, vector, text in zip(pending, vectors, texts, strict=True):
                self._store(Scope(user), p, vector, f"{p.doc.speaker}: {text}")

    def _store(self, scope: Scope, pending: _Pending, vector: Any, text: str) -> None:
        doc = pending.doc
        assert doc.event_time is not None
        hit = Hit(doc.ref, text, 0, "turn", (pending.source,), doc.event_time, doc.event_time, "active", doc.speaker)
        fields = {name: getattr(doc, name) for name in doc.__dataclass_fields__}
        self.feed.put(scope, IndexDoc(**{**fields, "vector": vector}), hit)

    async def search(self, query: str, *, user_id: str, top_k: int = 10, max_tokens: int | None = None) -> list[Hit]:
        return await self.recall.search(Scope(user_id), query, top_k=top_k, max_tokens=max_tokens)

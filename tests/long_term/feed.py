"""A durable store in miniature: a log of index documents and what a reader gets for each ref."""

from __future__ import annotations

from collections.abc import Sequence

from lightmem_engine.types import Hit, IndexDoc, Scope


class MemoryFeed:
    """Implements `protocols.Feed` over Python lists; counts its calls."""

    def __init__(self) -> None:
        self.log: dict[Scope, list[IndexDoc]] = {}
        self.hits: dict[tuple[Scope, str], Hit] = {}
        self.num_changes = 0

    def put(self, scope: Scope, doc: IndexDoc, hit: Hit | None = None) -> None:
        """Record a change, and what its ref reads as."""
        self.log.setdefault(scope, []).append(doc)
        if hit is not None:
            self.hits[scope, hit.id] = hit

    def delete(self, scope: Scope, ref: str) -> None:
        """Make a ref unreadable without telling the index."""
        self.hits.pop((scope, ref), None)

    async def changes(self, scope: Scope, since_seq: int) -> tuple[Sequence[IndexDoc], int]:
        self.num_changes += 1
        log = self.log.get(scope, [])
        if since_seq:
            return log[since_seq:], len(log)
        current = {doc.key: doc for doc in log}
        return [doc for doc in current.values() if doc.op == "put"], len(log)

    async def hydrate(self, scope: Scope, refs: Sequence[str]) -> dict[str, Hit]:
        return {ref: self.hits[scope, ref] for ref in refs if (scope, ref) in self.hits}

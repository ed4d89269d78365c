"""The search index of one user: words, vectors and attributes of the same documents, derived from the change feed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from lightmem_engine.errors import CorruptStore
from lightmem_engine.stores.attributes import Attributes
from lightmem_engine.stores.graph_index import GraphIndex
from lightmem_engine.stores.lexical import LexicalIndex
from lightmem_engine.stores.vectors import VectorIndex
from lightmem_engine.types import Columns, Floats, IndexDoc, Vector, Vectors

_MIN_DEAD = 64  # below this many dead slots a compaction is not worth its time
_MAX_WAITING = 16  # newest documents without a vector whose text is kept at hand
_MAX_WAITING_CHARS = 1000  # of each


class UserIndex:
    """Implements `protocols.SearchIndex`. Not thread-safe.

    A document is a slot in all parts. New text takes a new slot; slots of replaced and dropped documents stay as dead
    rows until they outnumber the live ones, then everything is renumbered without reading any text again.
    """

    def __init__(self, dim: int, device: str = "cpu") -> None:
        self._lexical = LexicalIndex()
        self._vectors = VectorIndex(dim, device)
        self._attributes = Attributes()
        self._graph = GraphIndex()
        self._slots: dict[str, int] = {}
        self._texts: list[int] = []  # per slot a hash of text, place and names: equal hash, nothing to index again
        self._waiting: dict[str, IndexDoc] = {}
        self._applied_seq = 0

    def __len__(self) -> int:
        return len(self._slots)

    @property
    def applied_seq(self) -> int:
        """The feed's number up to which changes are in; 0 for an empty index."""
        return self._applied_seq

    @property
    def nbytes(self) -> int:
        """Approximate bytes held, metadata not counted."""
        keys = sum(map(len, self._slots)) + 200 * len(self._slots) + 40 * len(self._texts)
        parts = (self._lexical, self._vectors, self._attributes, self._graph)
        return sum(part.nbytes for part in parts) + keys

    def apply(self, docs: Iterable[IndexDoc], seq: int) -> None:
        """Take in changes in order. A vector of the wrong dimension raises `InvalidInput`."""
        for doc in docs:
            if doc.op == "drop":
                self._drop(doc.key)
            else:
                self._put(doc)
        self._applied_seq = seq
        num_dead = len(self._texts) - len(self._slots)
        if num_dead > max(_MIN_DEAD, len(self._slots)) or self._vectors.num_dead > max(_MIN_DEAD, len(self._vectors)):
            self._compact()

    def columns(self) -> Columns:
        """Attributes by slot; views, valid until the next `apply`."""
        return self._attributes.columns(*self._lexical.links)

    def lexical(self, terms: Sequence[str]) -> Floats:
        """float32 [slots]; BM25 of every document together with its neighbours, 0 for dead slots."""
        return self._lexical.scores(terms)

    def cosine(self, vector: Vector) -> Floats:
        """float32 [slots]; nan where there is no vector."""
        return self._vectors.scores(vector, len(self._texts))

    def graph(self, words: Sequence[str], *, far: bool) -> Floats:
        """float32 [slots]; at most 1, how near each document is to what is named among the words of a question."""
        columns = self.columns()
        return self._graph.walk(words, columns.live, columns.before, columns.after, far=far)

    def waiting(self) -> list[IndexDoc]:
        """The newest documents that have no vector yet, as `protocols.SearchIndex.waiting` says."""
        return list(self._waiting.values())

    def lend(self, docs: Sequence[IndexDoc], vectors: Vectors | None) -> None:
        """Vectors for what is still `waiting` as it was handed out; a document's own vector replaces a lent one."""
        for number, doc in enumerate(docs):
            if self._waiting.get(doc.key) is doc:
                if vectors is not None:
                    self._vectors.put(self._slots[doc.key], vectors[number])
                del self._waiting[doc.key]

    def check(self) -> None:
        """Raise `CorruptStore` if the parts contradict each other."""
        columns = self.columns()
        live = set(np.flatnonzero(columns.live).tolist())
        if live != set(self._slots.values()) or len(self._slots) != len(live):
            raise CorruptStore("user index: keys and live slots disagree")
        if not len(self._texts) == len(self._attributes) == len(self._lexical):
            raise CorruptStore("user index: the parts differ in length")
        if np.any(self._vectors.has(len(self._texts)) & ~columns.live):
            raise CorruptStore("user index: a removed document still has a vector")
        self._lexical.check()
        self._vectors.check()

    def _put(self, doc: IndexDoc) -> None:
        text = hash((doc.text, doc.session, doc.position, doc.names))
        slot = self._slots.get(doc.key, -1)
        if slot >= 0 and self._texts[slot] == text:
            self._attributes.relabel(slot, doc)
        else:
            slot = self._add(doc, text, replaced=slot)
        if doc.vector is not None:
            self._vectors.put(slot, doc.vector)
            self._waiting.pop(doc.key, None)

    def _add(self, doc: IndexDoc, text: int, replaced: int) -> int:
        session = self._attributes.sessions.code(doc.session) if doc.session else -1
        same_session = replaced >= 0 and session == self.columns().session[replaced]
        slot = self._lexical.add(doc.text, session, doc.position, near=replaced if same_session else -1)
        if replaced >= 0:
            self._remove(replaced)
        self._attributes.append(doc)
        self._graph.add(slot, doc.names)
        self._texts.append(text)
        self._slots[doc.key] = slot
        self._waiting.pop(doc.key, None)
        if doc.vector is None:
            cut = doc.text[:_MAX_WAITING_CHARS]
            self._waiting[doc.key] = IndexDoc("put", doc.key, doc.ref, speaker=doc.speaker, text=cut)
            if len(self._waiting) > _MAX_WAITING:
                del self._waiting[next(iter(self._waiting))]
        return slot

    def _drop(self, key: str) -> None:
        slot = self._slots.pop(key, -1)
        self._waiting.pop(key, None)
        if slot >= 0:
            self._remove(slot)

    def _remove(self, slot: int) -> None:
        self._lexical.remove(slot)
        self._vectors.remove(slot)
        self._attributes.remove(slot)

    def _compact(self) -> None:
        live = self.columns().live
        new_slot = np.where(live, np.cumsum(live) - 1, -1).astype(np.int32)
        self._lexical.compact(new_slot)
        self._vectors.compact(new_slot)
        self._attributes.compact(new_slot)
        self._graph.compact(new_slot)
        self._slots = {key: int(new_slot[slot]) for key, slot in self._slots.items()}
        self._texts = [self._texts[i] for i in np.flatnonzero(live)]

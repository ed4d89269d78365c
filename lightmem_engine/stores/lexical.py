"""BM25 over documents that borrow words from their neighbours.

A short turn ("Yes, last Friday!") says little alone, so a document is scored as if the `context_words` words before
and after it in its session belonged to it, each counting `borrowed` of a word of its own: with a full count a turn
could not be told from its neighbour. Neighbours are not indexed twice: postings hold each document's own words,
sessions are linked lists, and a query spreads the postings it touches along the links.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from lightmem_engine.errors import CorruptStore
from lightmem_engine.stores.columns import Column
from lightmem_engine.stores.postings import Postings, Slots
from lightmem_engine.text import search_terms, words

Scores = npt.NDArray[np.float32]
Weights = npt.NDArray[np.float64]

_K1, _B = 1.2, 0.75
_MAX_NEIGHBOURS = 8  # on either side, so that a run of one-word turns stays cheap
_MAX_CELLS = 1 << 20  # of one (terms x documents) block of scores
# Of a query with more distinct terms, or whose terms occur more often, only the rarest are searched: the time of a
# search stays bounded, and what is left out is in so many documents that it hardly orders them.
_MAX_QUERY_TERMS = 64
_MAX_POSTINGS = 1 << 16
_NONE = -1


class LexicalIndex:
    """Documents of one user, addressed by slot: the order of their `add`. Removed slots score 0 until `compact`."""

    def __init__(self, context_words: int = 60, borrowed: float = 0.5) -> None:
        self._context_words = context_words
        self._borrowed = borrowed
        self._postings = Postings()
        self._live = Column(np.bool_)
        self._num_terms = Column(np.int32)
        self._num_words = Column(np.int32)
        self._seq = Column(np.int64)
        self._piece = Column(np.int32)
        self._session = Column(np.int32)
        self._links = (Column(np.int32), Column(np.int32))  # previous, next of the same session
        self._length = Column(np.float32)  # terms, borrowed ones included
        self._dirty: set[int] = set()  # slots whose length is out of date
        self._finger: dict[int, int] = {}  # session -> the slot inserted last, where the next one probably belongs

    def __len__(self) -> int:
        return len(self._live)

    @property
    def nbytes(self) -> int:
        """Approximate bytes held."""
        columns = (self._live, self._num_terms, self._num_words, self._seq, self._piece, self._session, self._length)
        return self._postings.nbytes + sum(c.nbytes for c in (*columns, *self._links)) + 100 * len(self._finger)

    @property
    def links(self) -> tuple[Slots, Slots]:
        """int32 [slots] each; the document before and the one after in the same session, -1 where there is none."""
        before, after = (link.values for link in self._links)
        return before, after

    def add(self, text: str, session: int, position: tuple[int, int], near: int = _NONE) -> int:
        """Index a text at its place in a session (negative: alone, without neighbours); return its slot.

        near: a live slot of that session close to the place, if known.
        """
        slot = len(self._live)
        terms = search_terms(text)
        self._postings.add(slot, terms)
        self._live.append(True)
        self._num_terms.append(len(terms))
        self._num_words.append(max(1, len(words(text)), len(terms)))
        self._seq.append(position[0])
        self._piece.append(position[1])
        self._session.append(session)
        self._length.append(len(terms))
        for link in self._links:
            link.append(_NONE)
        if session >= 0:
            self._insert(slot, session, position, self._finger.get(session, _NONE) if near < 0 else near)
        return slot

    def remove(self, slot: int) -> None:
        """Forget a document; its neighbours become each other's."""
        if not self._live.values[slot]:
            return
        self._mark(slot)
        self._dirty.discard(slot)
        previous, following = (int(link.values[slot]) for link in self._links)
        self._join(previous, following)
        self._live.values[slot] = False
        session = int(self._session.values[slot])
        if self._finger.get(session) == slot:
            heir = following if previous < 0 else previous
            if heir < 0:
                del self._finger[session]
            else:
                self._finger[session] = heir

    def scores(self, terms: Sequence[str]) -> Scores:
        """float32 [slots]; BM25 of every document with its context; a term given twice counts twice."""
        self._refresh()
        num_slots = len(self._live)
        total = np.zeros(num_slots, np.float64)
        num_live = int(np.count_nonzero(self._live.values))
        if not num_live:
            return total.astype(np.float32)
        norm = self._norm()
        asked = self._rarest(Counter(terms))
        step = max(1, _MAX_CELLS // num_slots)
        for i in range(0, len(asked), step):
            block = asked[i : i + step]
            cells = self._cells([term for term, _ in block])
            term, slot = np.divmod(np.flatnonzero(cells), num_slots)
            frequency = cells[term * num_slots + slot]
            documents = np.bincount(term, minlength=len(block))
            idf = np.log(1 + (num_live - documents + 0.5) / (documents + 0.5)) * [n for _, n in block]
            gain = idf[term] * frequency * (_K1 + 1) / (frequency + norm[slot])
            total += np.bincount(slot, gain, minlength=num_slots)
        return total.astype(np.float32)

    def compact(self, new_slot: Slots) -> None:
        """Renumber: slot s becomes new_slot[s], negative for slots to forget; order must be kept."""
        self._refresh()
        kept = np.flatnonzero(new_slot >= 0)
        self._postings.renumber(new_slot)
        for column in (self._live, self._num_terms, self._num_words, self._seq, self._piece, self._session):
            column.replace(column.values[kept])
        self._length.replace(self._length.values[kept])
        for link in self._links:
            old = link.values[kept]
            link.replace(np.where(old >= 0, new_slot[old], _NONE).astype(np.int32))
        self._finger = {session: int(new_slot[slot]) for session, slot in self._finger.items()}

    def check(self) -> None:
        """Raise `CorruptStore` unless links mirror each other, follow the order and stay within a session."""
        before, after = (link.values for link in self._links)
        slots = np.flatnonzero(self._live.values & (after >= 0))
        following = after[slots]
        in_order = (self._seq.values[slots] < self._seq.values[following]) | (
            (self._seq.values[slots] == self._seq.values[following])
            & (self._piece.values[slots] <= self._piece.values[following])
        )
        same_session = self._session.values[slots] == self._session.values[following]
        if not (np.all(before[following] == slots) and np.all(in_order) and np.all(same_session)):
            raise CorruptStore("lexical index: the order of a session is broken")

    def _rarest(self, counts: Counter[str]) -> list[tuple[str, int]]:
        """The terms that occur here, rarest first, with their counts in the query; as many as the bounds allow."""
        frequency = {term: self._postings.count(term) for term in counts}
        known = sorted((term for term in counts if frequency[term]), key=frequency.__getitem__)
        spent = np.cumsum([frequency[term] for term in known])
        affordable = max(1, int(np.searchsorted(spent, _MAX_POSTINGS, side="right")))
        return [(term, counts[term]) for term in known[: min(affordable, _MAX_QUERY_TERMS)]]

    def _cells(self, terms: Sequence[str]) -> Weights:
        """float64 [terms * slots]; how often each document holds each term, borrowed words included."""
        num_slots = len(self._live)
        slots, counts, keys = [], [], []
        for i, term in enumerate(terms):
            found, count = self._postings.find(term)
            live = self._live.values[found]
            slots.append(found[live])
            counts.append(count[live].astype(np.float64))
            keys.append(np.full(len(slots[-1]), i * num_slots, np.int64))
        where, weight = self._spread(np.concatenate(slots), np.concatenate(counts), np.concatenate(keys))
        return np.bincount(where, weight, minlength=len(terms) * num_slots).astype(np.float64, copy=False)

    def _spread(self, slots: Slots, counts: Weights, keys: npt.NDArray[np.int64]) -> tuple[Any, Any]:
        """Carry counts of slots to the neighbours that borrow their words; return (key + slot, count) pairs."""
        where, weight = [keys + slots], [counts]
        size = self._num_words.values[slots].astype(np.float64)
        for link in self._links:
            at, key, count, width = link.values[slots], keys, counts, size
            room = np.full(len(slots), float(self._context_words))
            for _ in range(_MAX_NEIGHBOURS):
                near = (at >= 0) & (room > 0)
                if not near.any():
                    break
                at, key, count, width, room = at[near], key[near], count[near], width[near], room[near]
                where.append(key + at)
                weight.append(self._borrowed * count * np.minimum(room / width, 1.0))
                room = room - self._num_words.values[at]
                at = link.values[at]
        return np.concatenate(where), np.concatenate(weight)

    def _norm(self) -> Weights:
        """BM25's length term of every document."""
        length = self._length.values.astype(np.float64)
        average = max(float(length[self._live.values].mean()), 1e-9)
        return np.asarray(_K1 * (1 - _B + _B * length / average))

    def _refresh(self) -> None:
        """Bring lengths up to date; a document's length is its terms plus its share of its neighbours' terms."""
        if not self._dirty:
            return
        slots = np.fromiter(self._dirty, np.int32, len(self._dirty))
        self._dirty = set()  # a cleared set would keep its table
        length = self._num_terms.values[slots].astype(np.float64)
        for link in self._links:
            at, index = link.values[slots], np.arange(len(slots))
            room = np.full(len(slots), float(self._context_words))
            for _ in range(_MAX_NEIGHBOURS):
                near = (at >= 0) & (room > 0)
                if not near.any():
                    break
                at, index, room = at[near], index[near], room[near]
                width = self._num_words.values[at]
                length[index] += self._borrowed * self._num_terms.values[at] * np.minimum(room / width, 1.0)
                room = room - width
                at = link.values[at]
        self._length.values[slots] = length

    def _insert(self, slot: int, session: int, position: tuple[int, int], near: int) -> None:
        before, after = (link.values for link in self._links)
        left, right = near, _NONE
        if near >= 0:
            right = int(after[near])
            while left >= 0 and self._position(left) > position:
                left, right = int(before[left]), left
            while right >= 0 and self._position(right) <= position:
                left, right = right, int(after[right])
        self._join(left, slot)
        self._join(slot, right)
        self._finger[session] = slot
        self._mark(slot)

    def _position(self, slot: int) -> tuple[int, int]:
        return int(self._seq.values[slot]), int(self._piece.values[slot])

    def _join(self, left: int, right: int) -> None:
        before, after = (link.values for link in self._links)
        if left >= 0:
            after[left] = right
        if right >= 0:
            before[right] = left

    def _mark(self, slot: int) -> None:
        """A document came or went here: the lengths around it change."""
        self._dirty.add(slot)
        for link in self._links:
            at, room = int(link.values[slot]), self._context_words
            for _ in range(_MAX_NEIGHBOURS):
                if at < 0 or room <= 0:
                    break
                self._dirty.add(at)
                room -= int(self._num_words.values[at])
                at = int(link.values[at])

"""Term -> (slot, count) postings without a vocabulary.

A term is its 64-bit hash, so no word of anybody is kept and small indexes stay small. Postings live in a part sorted
by term and in an unsorted tail of recent ones; the tail is merged when it has grown to a quarter of the sorted part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from lightmem_engine.stores.columns import Column

Ints = npt.NDArray[np.int64]
Slots = npt.NDArray[np.int32]

_MIN_TAIL = 2048
_MAX_COUNT = 255


class Postings:
    """Which slots hold a term, and how often (at most 255 times). Slots are non-negative int32."""

    def __init__(self) -> None:
        self._terms: Ints = np.empty(0, np.int64)  # distinct, ascending
        self._starts: Ints = np.zeros(1, np.int64)
        self._slots: Slots = np.empty(0, np.int32)
        self._counts: npt.NDArray[np.uint8] = np.empty(0, np.uint8)
        self._tail_terms = Column(np.int64)
        self._tail_slots = Column(np.int32)
        self._tail_counts = Column(np.uint8)

    def __len__(self) -> int:
        return len(self._slots) + len(self._tail_slots)

    @property
    def nbytes(self) -> int:
        """Bytes held by all arrays."""
        arrays = (self._terms, self._starts, self._slots, self._counts)
        tail = (self._tail_terms, self._tail_slots, self._tail_counts)
        return sum(a.nbytes for a in arrays) + sum(c.nbytes for c in tail)

    def add(self, slot: int, terms: Sequence[str]) -> None:
        """Record the terms of one slot; repeats count."""
        counts = Counter(terms)
        self._tail_terms.extend(np.fromiter(map(hash, counts), np.int64, len(counts)))
        self._tail_slots.extend(np.full(len(counts), slot, np.int32))
        self._tail_counts.extend(np.minimum(np.fromiter(counts.values(), np.int64, len(counts)), _MAX_COUNT))
        if len(self._tail_slots) > max(_MIN_TAIL, len(self._slots) // 4):
            self._merge()

    def find(self, term: str) -> tuple[Slots, npt.NDArray[np.uint8]]:
        """(slots, counts) of a term, slots possibly of removed documents too."""
        key = hash(term)
        at = int(np.searchsorted(self._terms, key))
        in_tail = np.flatnonzero(self._tail_terms.values == key)
        slots, counts = self._tail_slots.values[in_tail], self._tail_counts.values[in_tail]
        if at < len(self._terms) and self._terms[at] == key:
            span = slice(int(self._starts[at]), int(self._starts[at + 1]))
            slots = np.concatenate([self._slots[span], slots])
            counts = np.concatenate([self._counts[span], counts])
        return slots, counts

    def count(self, term: str) -> int:
        """How many postings a term has, removed documents included."""
        key = hash(term)
        at = int(np.searchsorted(self._terms, key))
        in_tail = int(np.count_nonzero(self._tail_terms.values == key))
        is_sorted = at < len(self._terms) and self._terms[at] == key
        return in_tail + (int(self._starts[at + 1] - self._starts[at]) if is_sorted else 0)

    def renumber(self, new_slot: Slots) -> None:
        """Slot s becomes new_slot[s]; postings whose new slot is negative are forgotten."""
        terms, slots, counts = self._all()
        slots = new_slot[slots]
        kept = slots >= 0
        self._build(terms[kept], slots[kept], counts[kept])

    def _all(self) -> tuple[Ints, Slots, npt.NDArray[np.uint8]]:
        sorted_terms = np.repeat(self._terms, np.diff(self._starts))
        return (
            np.concatenate([sorted_terms, self._tail_terms.values]),
            np.concatenate([self._slots, self._tail_slots.values]),
            np.concatenate([self._counts, self._tail_counts.values]),
        )

    def _merge(self) -> None:
        self._build(*self._all())

    def _build(self, terms: Ints, slots: Slots, counts: npt.NDArray[np.uint8]) -> None:
        order = np.argsort(terms, kind="stable")
        self._terms, first = np.unique(terms[order], return_index=True)
        self._starts = np.append(first, len(terms)).astype(np.int64)
        self._slots, self._counts = slots[order], counts[order]
        for column in (self._tail_terms, self._tail_slots, self._tail_counts):
            column.replace(np.empty(0, column.values.dtype))

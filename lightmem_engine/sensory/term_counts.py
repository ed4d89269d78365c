"""How many messages of a user contain each term, kept as messages arrive."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from lightmem_engine.text import search_terms


class TermCounts:
    """Document frequencies of one user; what `Window.document_frequency` asks for.

    Count a message before it is scored: a term's frequency is then never zero.
    """

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self.num_documents = 0

    @property
    def document_frequency(self) -> Mapping[str, int]:
        """Messages per term; a live view that grows with `add`."""
        return MappingProxyType(self._counts)

    def add(self, text: str) -> None:
        """Count one message."""
        self.num_documents += 1
        for term in set(search_terms(text)):
            self._counts[term] = self._counts.get(term, 0) + 1

    def remove(self, text: str) -> None:
        """Take one counted message back, as when it is erased."""
        self.num_documents -= 1
        for term in set(search_terms(text)):
            left = self._counts[term] - 1
            if left:
                self._counts[term] = left
            else:
                del self._counts[term]

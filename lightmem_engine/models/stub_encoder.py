"""Weight-free stand-ins for embedder and classifier: deterministic and instant.

They hash words; what they say is stable across processes and platforms, and means little.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

import numpy as np

from lightmem_engine.errors import InvalidInput
from lightmem_engine.text import search_terms, word_cache
from lightmem_engine.types import Vector, Vectors, Window, WindowScores, Word

_WORD = re.compile(r"\w+|[^\w\s]")


def _hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


@word_cache(1 << 14)
def _direction(term: str, dim: int) -> Vector:
    drawn = np.random.default_rng(_hash(term)).standard_normal(dim)
    return np.asarray(drawn / np.linalg.norm(drawn), np.float32)


class StubEmbedder:
    """Sum of one random direction per content term: texts that share words are near each other."""

    def __init__(self, dim: int = 64) -> None:
        self.dim = dim
        self.name = f"stub-{dim}"

    def count(self, texts: Sequence[str]) -> list[int]:
        """Words and punctuation marks of each text."""
        return [len(_WORD.findall(text)) for text in texts]

    def encode(self, texts: Sequence[str]) -> Vectors:
        """float32 [n, dim] with unit rows; a text without content terms gets a direction of its own."""
        rows = np.zeros((len(texts), self.dim), np.float32)
        for i, text in enumerate(texts):
            total = np.sum([_direction(term, self.dim) for term in search_terms(text)], axis=0, dtype=np.float64)
            length = float(np.linalg.norm(total))
            rows[i] = total / length if length > 1e-6 else _direction(text, self.dim)
        return rows


class StubClassifier:
    """Longer words are kept, ties by hash; attention between texts is the share of words they have in common."""

    name = "stub"

    def __init__(self, max_tokens: int = 512) -> None:
        self.max_tokens = max_tokens

    def count(self, texts: Sequence[str]) -> list[int]:
        """Words and punctuation marks of each text."""
        return [len(_WORD.findall(text)) for text in texts]

    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One result per window. A window longer than `max_tokens` raises `InvalidInput`."""
        return [self._score(number, window) for number, window in enumerate(windows)]

    def _score(self, number: int, window: Window) -> WindowScores:
        total = sum(self.count(window.texts)) + 2
        if total > self.max_tokens:
            raise InvalidInput(f"window {number} has {total} tokens, the model reads {self.max_tokens}")
        n = len(window.texts)
        attention, mass = np.full(n, np.nan, np.float32), np.full(n, np.nan, np.float32)
        terms = [set(search_terms(text)) for text in window.texts]
        for i in range(1, n):
            shared = [len(terms[i] & earlier) for earlier in terms[:i]]
            mass[i] = shared[-1] / max(1, len(terms[i]))
            if sum(shared):
                attention[i] = shared[-1] / sum(shared)
        words = tuple(_words(text) if i >= window.num_context else () for i, text in enumerate(window.texts))
        return WindowScores(words, attention, mass)


def _words(text: str) -> tuple[Word, ...]:
    found = []
    for match in _WORD.finditer(text):
        word = match.group()
        weight = len(word) + (_hash(word.lower()) % 1000) / 1000 if word[0].isalnum() else 0.0
        found.append(Word(match.start(), match.end(), weight))
    return tuple(found)

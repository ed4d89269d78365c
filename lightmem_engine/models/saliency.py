"""TokenClassifier without a head of its own: a word matters if it is rare and if other words attend to it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightmem_engine.models.encoder import Encoder, check_layers
from lightmem_engine.models.window_pass import LaidOut, WindowPass, read_windows
from lightmem_engine.text import STOPWORDS, scored_words, search_terms, word_cache
from lightmem_engine.types import Floats, Window, WindowScores, Word

# Chosen on development data, see `bench/LOG.md`.
ATTENTION_WEIGHT = 0.4
PRIOR_DOCUMENTS = 20.0  # how many messages of a user weigh as much as what the vocabulary says of a word
STOPWORD_SCORE, MARK_SCORE = -100.0, -200.0  # far below any content word: these go first


@dataclass(frozen=True, slots=True)
class Rarity:
    """How rare a word is, between 0 and 1: in this user's messages, and in the language while those are few."""

    document_frequency: Mapping[str, int]
    num_documents: int

    def of(self, terms: Sequence[str], prior: float) -> float:
        """The rarest of a word's terms, blended with `prior`, the language's answer."""
        if not self.num_documents or not terms:
            return prior
        seen = min(self.document_frequency.get(term, 0) for term in terms)
        own = math.log1p(self.num_documents / max(1, seen)) / math.log1p(self.num_documents)
        share = self.num_documents / (self.num_documents + PRIOR_DOCUMENTS)
        return share * own + (1 - share) * prior


class SaliencyClassifier:
    """Scores words in the very pass that yields the attention between turns; needs no weights beyond the encoder's.

    score(word) = z(rarity) + .4 z(attention received in the last layer), z over the content words of the window;
    stop words rank below every content word, punctuation below those.
    """

    def __init__(self, encoder: Encoder, *, layers: Sequence[int] = (), edge_tokens: int = 1) -> None:
        """layers, edge_tokens: where the attention between texts is read, see `read_windows`."""
        self.encoder = encoder
        self._edge_tokens = edge_tokens
        # One layer is enough, and the last ones mix sentences less clearly.
        self.layers = check_layers(layers, encoder, default=encoder.last_third()[:1])
        self.name = f"saliency({encoder.checkpoint.name})"
        self.max_tokens = encoder.max_tokens
        self._vocabulary = math.log(max(2, len(encoder.tokenizer)))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, without special tokens."""
        return self.encoder.count(texts)

    def score(self, windows: Sequence[Window]) -> list[WindowScores]:
        """One pass over all windows. A window longer than `max_tokens` raises `InvalidInput`."""
        results: dict[int, WindowScores] = {}
        for found in read_windows(
            self.encoder, windows, layers=self.layers, edge_tokens=self._edge_tokens, received=True
        ):
            words = self._words(windows[found.index], found)
            results[found.index] = WindowScores(words, found.attention, found.mass)
        return [results[i] for i in range(len(windows))]

    def _words(self, window: Window, found: WindowPass) -> tuple[tuple[Word, ...], ...]:
        assert found.received is not None
        rarity = Rarity(window.document_frequency, window.num_documents)
        spans: list[list[tuple[int, int]]] = [[] for _ in window.texts]
        rare: list[float] = []
        drawn: list[float] = []
        kinds: list[float] = []
        for t in range(window.num_context, len(window.texts)):
            text = window.texts[t]
            spans[t] = scored_words(text)
            tokens = found.layout.tokens_of(t)
            firsts = _first_tokens(found.layout, tokens, spans[t])
            for (start, end), first, last in zip(spans[t], firsts, [*firsts[1:], tokens.stop], strict=True):
                word = text[start:end].lower()
                kinds.append(_kind(word))
                rare.append(rarity.of(_terms(word), self._prior(found.layout.ids[first + 1 : last + 1])))
                drawn.append(float(np.log(found.received[first:last].mean() + 1e-6)) if last > first else -12.0)
        keep = _combined(np.array(rare), np.array(drawn), np.array(kinds))
        scores = iter(keep.tolist())
        return tuple(tuple(Word(start, end, next(scores)) for start, end in text) for text in spans)

    def _prior(self, ids: Sequence[int]) -> float:
        """How rare the language finds a word: vocabularies are built in order of frequency."""
        return math.log(max(2, *ids)) / self._vocabulary if ids else 1.0


def _combined(rare: Any, drawn: Any, kinds: Any) -> Floats:
    content = kinds == 0
    total = _z(rare, content) + ATTENTION_WEIGHT * _z(drawn, content) + kinds
    return np.asarray(total, np.float32)


def _z(values: Any, among: Any) -> Any:
    if not among.any():
        return np.zeros_like(values)
    spread = values[among].std()
    return np.clip((values - values[among].mean()) / spread, -9, 9) if spread > 1e-9 else np.zeros_like(values)


@word_cache(1 << 15)
def _terms(word: str) -> tuple[str, ...]:
    return tuple(search_terms(word))


@word_cache(1 << 15)
def _kind(word: str) -> float:
    if word in STOPWORDS:
        return STOPWORD_SCORE
    return 0.0 if any(c.isalnum() for c in word) else MARK_SCORE


def _first_tokens(layout: LaidOut, tokens: slice, spans: Sequence[tuple[int, int]]) -> list[int]:
    """Place of the first token that ends inside each word; a word the tokenizer dropped gets its successor's place.

    Ends, not starts: some tokenizers count the space before a word to its first token.
    """
    ends = layout.offsets[tokens, 1]
    places = np.searchsorted(ends, [start for start, _ in spans], side="right") + tokens.start
    return [int(place) for place in places]

"""What LLMLingua-2 asks of the model for a batch of calls, decided before the model runs.

Chunks, words, forced tokens and the weight of each word depend on text and options alone. All calls of a batch share
two tokenizer passes: one over the texts, one over the chunks cut from them (the package tokenizes these again, too, and
that is not always the same).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lightmem_engine.models.lingua_options import LinguaOptions
from lightmem_engine.models.lingua_tables import Flags, LinguaVocabulary, Rules, Split
from lightmem_engine.models.word_tokens import LONGEST_WORD
from lightmem_engine.text import word_cache

Ints = npt.NDArray[np.int64]
Count = Callable[[str], int]

MAX_CHUNK_TOKENS = 512  # special tokens included


@dataclass(frozen=True, slots=True)
class Words:
    """The words of a chunk.

    texts: [w].   weights: int64 [w], GPT-3.5 tokens of each.   starts, lengths: int64 [w], the first token of each
    among `places`, and how many it has.   places: int64 [t], which tokens of the chunk belong to words.
    forced: bool [t].
    """

    texts: list[str]
    weights: Ints
    starts: Ints
    lengths: Ints
    places: Ints
    forced: Flags


@dataclass(frozen=True, slots=True)
class Chunk:
    """One sequence for the model. `ids` with the special tokens; `visible` [T] is None where nothing is hidden from
    attention; `words` is None where the first token would continue a word that is not there."""

    text: str
    ids: list[int]
    visible: Flags | None
    words: Words | None


@dataclass(frozen=True, slots=True)
class Plan:
    """One call: its contexts as given, their chunk strings (forced tokens written as added ones), and their chunks,
    which are absent where no model is to run."""

    contexts: tuple[str, ...]
    pieces: tuple[tuple[str, ...], ...]
    chunks: tuple[tuple[Chunk, ...], ...]
    num_tokens: int  # of all contexts, by GPT-3.5; 0 where nothing depends on it
    rules: Rules


class Planner:
    """Plans batches of calls. `count` says how many GPT-3.5 tokens a text has."""

    def __init__(self, vocabulary: LinguaVocabulary, count: Count) -> None:
        self.vocabulary = vocabulary
        self._count = count
        self._weight = word_cache(1 << 16)(count)

    def plan(self, calls: Sequence[Sequence[str]], options: LinguaOptions) -> list[Plan]:
        """One plan per call, each call a list of contexts."""
        rules = self.vocabulary.rules(options)
        ends = set(options.chunk_end_tokens)
        ends |= {rules.swaps[token] for token in ends if token in rules.swaps}
        texts = [rules.swapped(text) for call in calls for text in call]
        pieces = iter([tuple(self._cut(split.tokens, ends)) for split in self.vocabulary.split(texts)])
        cut = [tuple(next(pieces) for _ in call) for call in calls]
        sizes = [self._size(call, options) for call in calls]
        reads = [
            _reads(call, options, size, self.has_filter(call, options)) for call, size in zip(calls, sizes, strict=True)
        ]
        strings = [piece for own, read in zip(cut, reads, strict=True) if read for group in own for piece in group]
        chunks = iter(self._chunks(strings, rules))
        return [
            Plan(
                tuple(call),
                own,
                tuple(tuple(next(chunks) for _ in group) for group in own) if read else (),
                size,
                rules,
            )
            for call, own, size, read in zip(calls, cut, sizes, reads, strict=True)
        ]

    def has_filter(self, call: Sequence[str], options: LinguaOptions) -> bool:
        """Whether contexts of the call compete with each other."""
        return len(call) != 1 and options.use_context_level_filter

    def count(self, text: str) -> int:
        """GPT-3.5 tokens of a text."""
        return self._count(text)

    def _size(self, call: Sequence[str], options: LinguaOptions) -> int:
        matters = options.target_token > 0 or self.has_filter(call, options)
        return sum(map(self._count, call)) if matters else 0

    def _cut(self, tokens: Sequence[str], ends: set[str]) -> Iterator[str]:
        """Chunk strings: cut after the last possible end, or else after one token more than fits."""
        room, start, n = MAX_CHUNK_TOKENS - 2, 0, len(tokens)
        while start < n:
            stop = n
            if start + room <= n - 1:
                last = start + room
                stop = next((at for at in range(last, start, -1) if tokens[at] in ends), last) + 1
            yield self.vocabulary.join(tokens[start:stop])
            start = stop

    def _chunks(self, strings: Sequence[str], rules: Rules) -> list[Chunk]:
        vocabulary = self.vocabulary
        found: list[tuple[list[int], Flags | None]] = []
        for text, split in zip(strings, vocabulary.split(strings), strict=True):
            ids = [vocabulary.begin, *split.ids, vocabulary.end][:MAX_CHUNK_TOKENS]
            found.append((ids, self._visible(text, split, len(ids))))
        words = self._words(found, rules)
        return [Chunk(text, *own, w) for text, own, w in zip(strings, found, words, strict=True)]

    def _visible(self, text: str, split: Split, length: int) -> Flags | None:
        """Somebody may have written the padding token; the package then hides it."""
        if self.vocabulary.pad not in text:
            return None
        shown = np.array([True, *(token != self.vocabulary.pad for token in split.tokens), True], np.bool_)[:length]
        return None if shown.all() else shown

    def _words(self, chunks: Sequence[tuple[list[int], Flags | None]], rules: Rules) -> list[Words | None]:
        """Tokens merged to words, all chunks at once."""
        if not chunks:
            return []
        bounds = np.cumsum([0, *(len(ids) for ids, _ in chunks)])
        flat = np.fromiter(itertools.chain.from_iterable(ids for ids, _ in chunks), np.int64, int(bounds[-1]))
        inside = ~self.vocabulary.special[flat]
        for number, (_, visible) in enumerate(chunks):
            if visible is not None:
                inside[bounds[number] : bounds[number + 1]] &= visible
        places = np.flatnonzero(inside)
        ids = flat[places]
        begins, forced = rules.begins[ids], rules.forced[ids]
        edges = np.searchsorted(places, bounds)
        starts = np.flatnonzero(begins)
        ends = edges[np.searchsorted(edges, starts, side="right")]
        lengths = np.minimum(np.append(starts[1:], len(ids)), ends) - starts
        texts = _merged(ids, starts, lengths, rules)
        known, count = self._weight, self._count
        weights = [known(text) if len(text) <= LONGEST_WORD else count(text) for text in texts]
        weighed = np.array(weights, np.int64)
        word_edges = np.searchsorted(starts, edges).tolist()
        words: list[Words | None] = []
        for number, (first, last) in enumerate(itertools.pairwise(edges.tolist())):
            if last > first and not begins[first]:
                words.append(None)
                continue
            own = slice(word_edges[number], word_edges[number + 1])
            local = places[first:last] - bounds[number]
            words.append(Words(texts[own], weighed[own], starts[own] - first, lengths[own], local, forced[first:last]))
        return words


def _merged(ids: Ints, starts: Ints, lengths: Ints, rules: Rules) -> list[str]:
    """The string of each word: what its first token reads like, and what the others add."""
    texts = [rules.heads[i] for i in ids[starts].tolist()]
    for number in np.flatnonzero(lengths > 1).tolist():
        rest = ids[starts[number] + 1 : starts[number] + lengths[number]].tolist()
        texts[number] += "".join([rules.tails[i] for i in rest])
    return texts


def _reads(call: Sequence[str], options: LinguaOptions, num_tokens: int, has_filter: bool) -> bool:
    """Whether the model is to run at all: not where everything is kept anyway."""
    if has_filter:
        return True
    return options.use_token_level_filter and reduction(options, num_tokens) > 0


def reduction(options: LinguaOptions, num_tokens: int) -> float:
    """The share to drop of a text with so many GPT-3.5 tokens; computed as the package does, in doubles."""
    rate = options.rate
    if options.target_token > 0:
        rate = min(options.target_token / num_tokens, 1.0) if num_tokens else 1.0
    return max(0, 1 - rate)

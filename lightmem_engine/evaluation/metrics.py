"""Judge-free metrics of retrieval. Pure; the definitions are in the project's evaluation notes.

An entry here is a pair of what a reader would get and the messages it names as its sources.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence

from lightmem_engine.text import num_tokens, stem, terms, words

_ARTICLES = frozenset({"a", "an", "the"})


def evidence_recall(sources: Sequence[Collection[str]], gold: Collection[str]) -> float:
    """The share of gold messages among the sources of some entries; `gold` is not empty."""
    wanted = set(gold)
    return len(wanted.intersection(set().union(*sources))) / len(wanted)


def within_budget(lines: Iterable[str], max_tokens: int) -> int:
    """How many of the ranked lines fit whole; the first always counts."""
    count = spent = 0
    for line in lines:
        spent += num_tokens(line)
        if count and spent > max_tokens:
            break
        count += 1
    return count


def answer_terms(text: str) -> list[str]:
    """Stems of all words but articles, in order."""
    return [stem(word) for word in words(text) if word not in _ARTICLES]


def answer_recall(answer: str, text: str) -> float:
    """The share of the answer's terms, repeats counted, that the text holds; 0 for an answer without terms."""
    wanted, held = answer_terms(answer), set(answer_terms(text))
    return sum(term in held for term in wanted) / len(wanted) if wanted else 0.0


def answer_contained(answer: str, text: str) -> float:
    """1 if the text holds all terms of the answer, else 0."""
    return float(answer_recall(answer, text) == 1.0)


def idf_table(texts: Sequence[str]) -> dict[str, float]:
    """log(1 + N / df) of every content term over the turns of one conversation."""
    frequency: dict[str, int] = {}
    for text in texts:
        for term in set(terms(text)):
            frequency[term] = frequency.get(term, 0) + 1
    return {term: math.log(1 + len(texts) / count) for term, count in frequency.items()}


def is_credited(entry: str, turn: str, idf: Mapping[str, float], answer: str | None = None, share: float = 0.5) -> bool:
    """May an entry claim a turn? It holds `share` of the turn's distinct content terms by IDF weight, or every
    content term of the answer that stands in the turn, at least one."""
    held, wanted = set(terms(entry)), set(terms(turn))
    total = sum(idf.get(term, 0.0) for term in wanted)
    if total and sum(idf.get(term, 0.0) for term in wanted & held) >= share * total:
        return True
    decisive = wanted.intersection(terms(answer)) if answer is not None else set()
    return bool(decisive) and decisive <= held


def mean(values: Sequence[float]) -> float:
    """The mean; nan of nothing."""
    return math.fsum(values) / len(values) if values else math.nan

"""What counts as a word, a term and a token of text: one definition for search, budgets and metrics. Pure.

`words`, `stem` and `terms` are English and ASCII, as the public retrieval baselines are; `search_terms` agrees with
`terms` on ASCII text and also understands other scripts, so that no language is invisible to lexical search.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import _lru_cache_wrapper, lru_cache
from typing import Any, TypeVar
from weakref import WeakSet

T = TypeVar("T")
_caches: WeakSet[_lru_cache_wrapper[Any]] = WeakSet()

# Articles, conjunctions and prepositions; forms of be, do and have, and the modals; pronouns and determiners;
# question words, negations and degree; what an apostrophe leaves behind (it's, don't, they're).
_STOP_TEXT = """
a an the and or but if of to in on at for from by with about as into than
is are was were be been being am do does did doing have has had having can will just should would could
i you he she it we they me him her us them my your his its our their this that these those
what which who whom when where why how not no so too very
s t re ve ll d m don
"""
STOPWORDS = frozenset(_STOP_TEXT.split())

_WORD = re.compile(r"[a-z0-9]+")
_TOKEN = re.compile(r"\w+|[^\w\s]")
_SCRIPT_WORD = re.compile(r"[^\W_]+")
# Scripts written without spaces: a run of them is not one word, so each character is a term of its own.
UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_UNSPACED = re.compile(f"[{UNSPACED}]")
_SCORED = re.compile(rf"[{UNSPACED}]|[^\W{UNSPACED}]+|[^\w\s]")
_SUFFIXES = (("ies", "y"), ("sses", "ss"), ("ing", ""), ("ed", ""), ("ly", ""), ("es", ""), ("s", ""))
_MIN_STEM = 3


def num_tokens(text: str) -> int:
    """Words plus single punctuation marks: the measure of every token budget, free of any tokenizer file."""
    return sum(1 for _ in _TOKEN.finditer(text))


def words(text: str) -> list[str]:
    """Runs of ASCII letters and digits, lower-cased, in order."""
    return _WORD.findall(text.lower())


def word_cache(maxsize: int) -> Callable[[Callable[..., T]], _lru_cache_wrapper[T]]:
    """An `lru_cache` for functions of people's words: `forget_words` empties it."""

    def cached(function: Callable[..., T]) -> _lru_cache_wrapper[T]:
        wrapped = lru_cache(maxsize=maxsize)(function)
        _caches.add(wrapped)
        return wrapped

    return cached


@word_cache(1 << 15)
def stem(word: str) -> str:
    """A light stem of a lower-case word: one suffix off, doubled consonant and final e dropped."""
    if len(word) <= _MIN_STEM or word.isdigit():
        return word
    word = _without_suffix(word)
    if len(word) > _MIN_STEM and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word[:-1] if len(word) > _MIN_STEM + 1 and word.endswith("e") else word


def forget_words() -> None:
    """Empty every `word_cache`, so that no word of an erased memory stays in the process."""
    for cache in _caches:
        cache.cache_clear()


def _without_suffix(word: str) -> str:
    for suffix, replacement in _SUFFIXES:
        if suffix == "s" and word.endswith("ss"):
            continue
        if word.endswith(suffix) and len(word) - len(suffix) >= _MIN_STEM:
            return word[: -len(suffix)] + replacement
    return word


def terms(text: str) -> list[str]:
    """Stems of the content words, in order, repeats kept; stop words are out."""
    return [stem(word) for word in words(text) if word not in STOPWORDS]


def scored_words(text: str) -> list[tuple[int, int]]:
    """Where each word and mark stands, which compression keeps or drops: (start, end) in characters. In scripts without
    spaces every character is a word."""
    return [match.span() for match in _SCORED.finditer(text)]


def search_terms(text: str) -> list[str]:
    """What lexical search indexes: `terms`, and for other scripts accent-folded words or single characters."""
    if text.isascii():
        return terms(text)
    folded = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    found = []
    for word in _SCRIPT_WORD.findall(unicodedata.normalize("NFC", folded)):
        if word.isascii():
            found += [] if word in STOPWORDS else [stem(word)]
        elif _UNSPACED.search(word):
            found += word
        else:
            found.append(word)
    return found

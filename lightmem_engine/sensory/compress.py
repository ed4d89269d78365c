"""Shorten a text to its best words. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from lightmem_engine.types import Word

NEGATIONS = frozenset("no not nor never none nobody nothing nowhere neither cannot without".split())

_CLOSING = frozenset(".,;:!?)]}%…。，！？；：、”’")
_OPENING = frozenset("([{$€£#@“‘")
_SENTENCE_ENDS = frozenset(".!?…。！？\n")
# "3.5", "10:30", "don't", "self-care", "https://example.com/a": words joined without a space stand or fall together.
# "ends.Next" is a missing space, not a joint.
_JOINED = re.compile(r"\w+(?:(?:://|['’/@&+=?#-]|(?<=\d)[,:](?=\d)|\.(?![A-Z]))\w+)+")


@dataclass(frozen=True, slots=True)
class _Unit:
    """Words that must stand or fall together ("3.5", "don't", an address): characters [start, end) of the text."""

    start: int
    end: int
    cost: int  # words
    score: float
    protected: bool


def compress(
    text: str, words: Sequence[Word], *, rate: float, protect: Collection[str] = (), names: Collection[str] = ()
) -> str:
    """The best `rate` of the words, in their order, spaced as in the text.

    Protected words (`numbers`, `names`, `negations`) are never dropped; they count inside the budget first, so a text
    full of them may exceed it. `names` are words to protect as names wherever they stand, in any case; other names are
    capitalised words that do not begin a sentence. Rate 1 and a text without words return the text unchanged. A text
    with a visible character never comes out empty. Characters in no word (what a tokenizer does not know) are dropped
    unless both their neighbours stay.
    """
    if rate >= 1 or not words:
        return text
    units = _units(text, words, frozenset(protect), frozenset(name.casefold() for name in names))
    kept = _choose(units, round(rate * len(words)))
    return _join(text, units, kept)


def _choose(units: Sequence[_Unit], budget: int) -> list[int]:
    """Places of the units to keep, ascending: the protected, then the best that still fit; at least one."""
    ranked = sorted(range(len(units)), key=lambda i: (not units[i].protected, -units[i].score, i))
    kept: list[int] = []
    spent = 0
    for i in ranked:
        if units[i].protected or not kept or spent + units[i].cost <= budget:
            kept.append(i)
            spent += units[i].cost
    return sorted(kept)


def _join(text: str, units: Sequence[_Unit], kept: Sequence[int]) -> str:
    parts = [text[units[kept[0]].start : units[kept[0]].end]]
    for before, after in zip(kept, kept[1:], strict=False):
        left, right = units[before], units[after]
        gap = text[left.end : right.start]
        parts.append(gap if after == before + 1 else _space(gap, text[left.end - 1], text[right.start]))
        parts.append(text[right.start : right.end])
    return "".join(parts)


def _space(gap: str, left: str, right: str) -> str:
    """What stands where words were dropped: the break of the lines, a space, or nothing before a comma and the like."""
    if "\n" in gap:
        return "\n"
    if right in _CLOSING or left in _OPENING:
        return ""
    return " " if any(c.isspace() for c in gap) or left.isascii() or right.isascii() else ""


def _units(text: str, words: Sequence[Word], protect: frozenset[str], names: frozenset[str]) -> list[_Unit]:
    units: list[_Unit] = []
    begins_sentence = True
    for group in _groups(text, words):
        start, end = group[0].start, group[-1].end
        written = text[start:end]
        scores = [word.keep for word in group if not math.isnan(word.keep)]
        between = text[units[-1].end : start] if units else ""
        begins_sentence |= "\n" in between or any(c in _SENTENCE_ENDS for c in between)
        is_protected = _is_protected(written, begins_sentence, protect, names)
        units.append(_Unit(start, end, len(group), max(scores, default=-math.inf), is_protected))
        if any(c.isalnum() for c in written):
            begins_sentence = False
        elif any(c in _SENTENCE_ENDS for c in written):
            begins_sentence = True
    return units


def _groups(text: str, words: Sequence[Word]) -> Iterator[list[Word]]:
    """The words in order, those of one joined run together."""
    runs = iter(_JOINED.finditer(text))
    run = next(runs, None)
    group: list[Word] = []
    for word in words:
        while run is not None and run.end() <= word.start:
            run = next(runs, None)
        inside = run is not None and run.start() <= word.start and word.end <= run.end()
        if group and not (inside and run is not None and run.start() <= group[0].start):
            yield group
            group = []
        group.append(word)
    if group:
        yield group


def _is_protected(written: str, begins_sentence: bool, protect: frozenset[str], names: frozenset[str]) -> bool:
    folded = written.casefold().replace("’", "'")
    if "numbers" in protect and any(c.isdigit() for c in written):
        return True
    if "negations" in protect and (folded in NEGATIONS or folded.endswith("n't")):
        return True
    if "names" not in protect:
        return False
    base = folded.removesuffix("'s")
    if folded in names or base in names:
        return True
    return not begins_sentence and written[0].isupper() and folded.split("'")[0] != "i"

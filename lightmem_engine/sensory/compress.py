"""Shorten texts to their best words. Pure."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from lightmem_engine.sensory.protected import is_protected
from lightmem_engine.text import UNSPACED
from lightmem_engine.types import Word

_CLOSING = frozenset(".,;:!?)]}%…。，！？；：、”’")
_OPENING = frozenset("([{$€£#@“‘")
_SENTENCE_ENDS = frozenset(".!?…。！？\n")
_UNSPACED = re.compile(f"[{UNSPACED}]")
# "3.5", "10:30", "don't", "self-care", "https://example.com/a", "$478", "20%", "Abel & Sons" stand or fall as one word.
# "ends.Next" is a missing space, not a joint. Possessive and anchored: linear also in an endless run of letters.
_JOINT = r"(?:(?: & |://|['’/@&+=?#-]|(?<=\d)[,:](?=\d)|\.(?![A-Z]))\w++)"
_JOINED = re.compile(
    rf"(?<![$€£¥₹#+±-])[$€£¥₹#+±-]++\d\w*+{_JOINT}*+[%‰°]?|(?<!\w)\w++(?:{_JOINT}++(?:(?<=\d)[%‰°€£¥])?|(?<=\d)[%‰°€£¥])"
)


@dataclass(frozen=True, slots=True)
class _Unit:
    """Words that must stand or fall together ("3.5", "don't", an address): characters [start, end) of the text."""

    start: int
    end: int
    cost: int  # words
    score: float
    protected: bool


def compress(
    texts: Sequence[str],
    words: Sequence[Sequence[Word]],
    *,
    rate: float,
    protect: Collection[str] = (),
    names: Collection[str] = (),
    whole_words: int = 0,
) -> list[str]:
    """The best `rate` of the words of texts that were scored together, in their order, spaced as in the text.

    One budget serves all the texts, so a text that says much keeps more than one that says little; each keeps at least
    its best word, so none with a visible character comes out empty. Protected words (`numbers`, `names`, `people`,
    `negations`, see `is_protected`) are never dropped; they count inside the budget first, so texts full of them may
    exceed it. `names` are words to protect as names wherever they stand, in any case; other names are capitalised words
    that do not begin a sentence. A text of at most `whole_words` words, marks not counted, is kept whole and takes
    nothing from the budget of the others: a short statement has no word to spare. Rate 1, and a text without words,
    return the text unchanged. Characters in no word (what a tokenizer does not know) are dropped unless both their
    neighbours stay.
    """
    if rate >= 1:
        return list(texts)
    known = frozenset(name.casefold() for name in names)
    # A text without units stays as it is.
    short = [bool(whole_words) and _is_short(text, own, whole_words) for text, own in zip(texts, words, strict=True)]
    words = [() if is_short else own for own, is_short in zip(words, short, strict=True)]
    units = [_units(text, own, frozenset(protect), known) for text, own in zip(texts, words, strict=True)]
    kept = _choose(units, round(rate * sum(len(own) for own in words)))
    return [_join(text, own, places) if places else text for text, own, places in zip(texts, units, kept, strict=True)]


def _is_short(text: str, words: Sequence[Word], most: int) -> bool:
    said = itertools.islice((word for word in words if text[word.start].isalnum()), most + 1)
    return sum(1 for _ in said) <= most


def _choose(units: Sequence[Sequence[_Unit]], budget: int) -> list[list[int]]:
    """Per text the places of the units to keep, ascending: the protected, the best of each text, then the best."""
    kept: list[set[int]] = []
    for own in units:
        forced = {i for i, unit in enumerate(own) if unit.protected}
        kept.append(forced or ({max(range(len(own)), key=lambda i: own[i].score)} if own else set()))
    spent = sum(own[i].cost for own, places in zip(units, kept, strict=True) for i in places)
    rest = [(t, i) for t, own in enumerate(units) for i in range(len(own)) if i not in kept[t]]
    for t, i in sorted(rest, key=lambda place: -units[place[0]][place[1]].score):
        if spent + units[t][i].cost <= budget:
            kept[t].add(i)
            spent += units[t][i].cost
    return [sorted(places) for places in kept]


def _join(text: str, units: Sequence[_Unit], kept: Sequence[int]) -> str:
    parts = [text[units[kept[0]].start : units[kept[0]].end]]
    for before, after in itertools.pairwise(kept):
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
    return "" if _UNSPACED.match(left) and _UNSPACED.match(right) else " "


def _units(text: str, words: Sequence[Word], protect: frozenset[str], names: frozenset[str]) -> list[_Unit]:
    units: list[_Unit] = []
    begins_sentence = True
    for group in _groups(text, words):
        start, end = group[0].start, group[-1].end
        written = text[start:end]
        scores = [word.keep for word in group if not math.isnan(word.keep)]
        between = text[units[-1].end : start] if units else ""
        begins_sentence |= not _SENTENCE_ENDS.isdisjoint(between)
        must_stay = is_protected(written, begins_sentence, protect, names)
        units.append(_Unit(start, end, len(group), max(scores, default=-math.inf), must_stay))
        if written.isalnum() or any(c.isalnum() for c in written):
            begins_sentence = False
        elif not _SENTENCE_ENDS.isdisjoint(written):
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

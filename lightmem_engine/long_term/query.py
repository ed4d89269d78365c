"""What a question says about where its answer is: who said it, and when. Pure; no model.

Only explicit signs count: a known speaker's name, a date with a month or a year, and words such as "you recommended"
that ask for the assistant's side. Whatever is not there leaves ranking as it is.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from lightmem_engine.mentions import words
from lightmem_engine.text import search_terms

_MONTHS = [
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
]  # fmt: skip
_MONTH_NUMBER = {name[:n]: i + 1 for i, name in enumerate(_MONTHS) for n in (3, len(name))} | {"sept": 9}
_MONTH = rf"(?P<month>{'|'.join(sorted(_MONTH_NUMBER, key=len, reverse=True))})\b\.?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_DAY = r"(?P<day>[0-3]?\d)(?:st|nd|rd|th)?"
_DATE_FORMS = tuple(
    re.compile(rf"(?<![\w-]){form}(?![\w-])", re.IGNORECASE)
    for form in (
        rf"{_YEAR}-(?P<month_number>[01]?\d)(?:-{_DAY})?",
        rf"{_DAY}(?:\s+of)?\s+{_MONTH}(?:,?\s+{_YEAR})?",
        rf"{_MONTH}\s+{_DAY}(?:,?\s+{_YEAR})?",
        rf"{_MONTH},?\s+{_YEAR}",
        _MONTH,
        _YEAR,
    )
)
_MONTH_ALONE = _DATE_FORMS[4]
_PREPOSITION = re.compile(
    r"\b(?:in|on|of|by|from|to|between|and|since|during|before|after|until|early|mid|late|last|this|next)[\s-]+$",
    re.IGNORECASE,
)
_ASSISTANT = re.compile(
    r"\b(?:did|had|have) you\b(?! ever)"
    r"|\byou (?:said|told|recommended|suggested|advised|explained|mentioned|gave|proposed|wrote|showed|listed"
    r"|provided|offered)\b"
    r"|\byour (?:recommendation|suggestion|advice|answer|explanation|response)s?\b",
    re.IGNORECASE,
)
_SINCE = re.compile(r"\b(?:since|after)\s+(?:the\s+|early\s+)?$", re.IGNORECASE)
_BEFORE = re.compile(r"\b(?:before|until|till)\s+(?:the\s+|early\s+)?$", re.IGNORECASE)
# "The week before 3 August" is near that date, and no span without an end.
_NEAR = re.compile(r"\b(?:day|night|week|weekend|month|year)s?\s+(?:before|after)\s+(?:the\s+)?$", re.IGNORECASE)
_LINK = re.compile(
    r"\bhow (?:is|are|was|were) .+ (?:related|connected|linked|tied)\b"
    r"|\b(?:relation|relationship|connection|link|tie)s? between\b|\bwhat (?:links|connects|ties)\b|\bhave in common\b",
    re.IGNORECASE | re.DOTALL,
)
_NAME_WORD = re.compile(r"[^\W_]+")
_ANONYMOUS = frozenset({"", "user", "assistant", "system", "tool", "unknown"})


Bound = Literal["on", "since", "before"]


@dataclass(frozen=True, slots=True)
class DateMention:
    """A date as far as the question gives it, and whether it asks for what was on it, since it, or before it."""

    year: int | None = None
    month: int | None = None
    day: int | None = None
    bound: Bound = "on"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, read.

    terms: what lexical search looks for; names stay in.
    bare: the question without speakers' names, for the embedder: a name pulls the vector towards every turn that
        mentions it, and who spoke is judged apart.
    speakers: the known speakers that the question names, case-folded.
    words: all of it, as names in the graph are written.
    asks_link: it asks what things have to do with each other, so that the way from one to the other is the answer.
    """

    terms: tuple[str, ...]
    bare: str
    speakers: frozenset[str]
    dates: tuple[DateMention, ...]
    asks_assistant: bool
    words: tuple[str, ...] = ()
    asks_link: bool = False


def read(text: str, speakers: Sequence[str]) -> Question:
    """Read a question, knowing who has spoken in this memory. Unnamed roles are no names."""
    named, bare = _find_speakers(text, speakers)
    return Question(
        terms=tuple(search_terms(text)),
        bare=bare,
        speakers=named,
        dates=find_dates(text),
        asks_assistant=bool(_ASSISTANT.search(text)),
        words=tuple(words(text)),
        asks_link=bool(_LINK.search(text)),
    )


def find_dates(text: str) -> tuple[DateMention, ...]:
    """Dates in order of appearance; impossible days and months are no dates, and doubtful month names none either."""
    taken: list[tuple[int, int]] = []
    found: list[tuple[int, DateMention]] = []
    for form in _DATE_FORMS:
        for match in form.finditer(text):
            start, end = match.span()
            if any(start < b and a < end for a, b in taken) or _is_doubtful_month(text, match):
                continue
            mention = _mention(match)
            if mention is not None:
                taken.append((start, end))
                found.append((start, replace(mention, bound=_bound(text[:start]))))
    return tuple(mention for _, mention in sorted(found, key=lambda item: item[0]))


def _bound(before: str) -> Bound:
    if _NEAR.search(before):
        return "on"
    return "since" if _SINCE.search(before) else "before" if _BEFORE.search(before) else "on"


def is_anonymous(speaker: str) -> bool:
    """Whether a speaker's name is only a role."""
    return speaker.casefold() in _ANONYMOUS


def _mention(match: re.Match[str]) -> DateMention | None:
    groups = match.groupdict()
    year = int(groups["year"]) if groups.get("year") else None
    day = int(groups["day"]) if groups.get("day") else None
    month = int(groups["month_number"]) if groups.get("month_number") else None
    if groups.get("month"):
        month = _MONTH_NUMBER[groups["month"].lower()]
    possible = (month is None or 1 <= month <= 12) and (day is None or 1 <= day <= 31)
    return DateMention(year, month, day) if possible else None


def _is_doubtful_month(text: str, match: re.Match[str]) -> bool:
    """A month alone may be another word ("may", "march", "dec"): those need a capital and a preposition."""
    if match.re is not _MONTH_ALONE:
        return False
    word = match.group("month")
    if word.lower() in _MONTHS and word.lower() not in ("may", "march"):
        return False
    return not (word[0].isupper() and _PREPOSITION.search(text[: match.start()]))


def _find_speakers(text: str, speakers: Sequence[str]) -> tuple[frozenset[str], str]:
    """Speakers that the text names, case-folded, and the text without those names. A word belongs to one speaker:
    full names go first, the longest of them before the others, then first names."""
    tokens = [(m.group().casefold(), m.start(), m.end()) for m in _NAME_WORD.finditer(text)]
    # "will" and "rose" are names only with a capital, unless the writer uses none.
    is_name = [text[start].isupper() or text.islower() for _, start, _ in tokens]
    known = {name.casefold(): _NAME_WORD.findall(name.casefold()) for name in speakers if not is_anonymous(name)}
    full = sorted(((name, parts) for name, parts in known.items() if parts), key=lambda item: -len(item[1]))
    found: set[str] = set()
    cut: set[int] = set()
    for name, parts in full + [(name, parts[:1]) for name, parts in full if len(parts) > 1]:
        for i in range(len(tokens) - len(parts) + 1):
            span = range(i, i + len(parts))
            if is_name[i] and [tokens[j][0] for j in span] == parts and cut.isdisjoint(span):
                found.add(name)
                cut.update(span)
    return frozenset(found), _without(text, [tokens[i][1:] for i in sorted(cut)])


def _without(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """The text without some words and their possessive endings; the text itself if nothing would be left."""
    parts, at = [], 0
    for start, end in spans:
        parts.append(text[at:start])
        at = end + 2 if re.match(r"['’]s\b", text[end : end + 2]) else end
    bare = re.sub(r"\s+", " ", "".join([*parts, text[at:]])).strip()
    return bare if _NAME_WORD.search(bare) else text

"""Relative dates of English text, resolved against the day on which it was said. Pure.

Conservative: a phrase is resolved only where its meaning is plain; a wrong date is worse than none. Durations ("over
the last year", "first time in two years"), names ("the song Yesterday") and phrases that already carry their date
are left alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from lightmem_engine.prompts.v1 import format_date

_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
_NUMBER_WORDS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS = {word: n for n, word in enumerate(_NUMBER_WORDS, 1)} | {"a": 1, "an": 1, "a couple": 2, "a couple of": 2}
_VAGUE = ("a few", "several", "some")

_N = rf"(?P<n>\d{{1,3}}|{'|'.join(sorted((*_NUMBERS, *_VAGUE), key=len, reverse=True))})"
_WEEKDAY = rf"(?P<weekday>{'|'.join(_WEEKDAYS)})"
_PART = r"(?:\s+(?:morning|afternoon|evening|night))?"
_ITS = r"(?:['’]s\b)?"
_NOT_THE = r"(?<!\bthe\s)(?<!\bThe\s)"

# "in two weeks" is a date only in a clause that looks ahead, not in "twice in two weeks".
_AHEAD = re.compile(
    r"\b(?:will|going to|gonna|is|are|am|starts?|begins?|leaves?|arrives?|opens?|ends?|expires?|due|see you)\b"
    r"|\w['’](?:ll|re|m)\b",
    re.IGNORECASE,
)
_BEHIND = re.compile(
    r"\b(?:not|never|first|best|worst|once|twice|times?|since|did|was|were|had|has|been|won|within)\b|n['’]t\b"
    r"|\w{3}ed\b",
    re.IGNORECASE,
)
_DATED = re.compile(
    rf"{_ITS}\s*(?:\([^()]*\d{{4}}\)|,?\s*(?:the\s+)?(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?)?(?:{'|'.join(_MONTHS)})\b)"
)
_AN_ERA = re.compile(r"\s+(?:world|society|age|youth|kids|standards?|technology|market|economy|generation)\b", re.I)


@dataclass(frozen=True, slots=True)
class DateSpan:
    """A relative date at characters [start, end) of a text, and the words to put there: the phrase and its date."""

    start: int
    end: int
    replacement: str


_LOOK_BACK = 64  # characters before a phrase that can make it a title


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: re.Pattern[str]
    meaning: Callable[[re.Match[str], date], str | None]


def date_spans(text: str, event_time: datetime) -> list[DateSpan]:
    """The relative dates of the text, in order, not overlapping; `event_time` carries the speaker's own zone."""
    day = event_time.date()
    found: list[DateSpan] = []
    for match, meaning in sorted(_matches(text, day), key=lambda item: (item[0].start(), -item[0].end())):
        if not found or match.start() >= found[-1].end:
            found.append(DateSpan(match.start(), match.end(), f"{match.group()} ({meaning})"))
    return found


def resolve(text: str, event_time: datetime) -> str:
    """The text with each relative date followed by the date it means: `yesterday (7 May 2023)`. Idempotent."""
    parts: list[str] = []
    at = 0
    for span in date_spans(text, event_time):
        parts += (text[at : span.start], span.replacement)
        at = span.end
    return "".join((*parts, text[at:]))


def _matches(text: str, day: date) -> Iterator[tuple[re.Match[str], str]]:
    for rule in _RULES:
        for match in rule.pattern.finditer(text):
            if _is_name(match) or _DATED.match(text, match.end()):
                continue
            try:
                meaning = rule.meaning(match, day)
            except (OverflowError, ValueError):  # before the year 1, after 9999
                continue
            if meaning:
                yield match, meaning


def _is_name(match: re.Match[str]) -> bool:
    """Whether the phrase is a title: in quotes, or with a capital inside a sentence."""
    before = match.string[max(0, match.start() - _LOOK_BACK) : match.start()]
    if before.endswith(('"', "“", "'", "‘")) and match.string[match.end() : match.end() + 1] in ('"', "”", "'", "’"):
        return True
    words_before = before.rstrip(" \t")
    return match.group()[0].isupper() and bool(words_before) and (words_before[-1].isalnum() or words_before[-1] == ",")


def _day(offset: int) -> Callable[[re.Match[str], date], str]:
    return lambda _, day: format_date(day + timedelta(days=offset))


def _today(match: re.Match[str], day: date) -> str | None:
    is_era = match.group().endswith("s") and _AN_ERA.match(match.string, match.end())
    return None if is_era else format_date(day)


def _month(day: date, offset: int) -> str:
    index = day.year * 12 + day.month - 1 + offset
    return f"{_MONTHS[index % 12]} {_year(index // 12)}"


def _year(year: int) -> str:
    if not 1 <= year <= 9999:
        raise ValueError(f"no such year: {year}")
    return str(year)


def _shifted(match: re.Match[str], day: date, sign: int) -> str | None:
    """`n` units before (sign -1) or after the day, as exact as the unit."""
    said, unit = " ".join(match["n"].lower().split()), match["unit"].lower()
    where = "before" if sign < 0 else "after"
    if said in _VAGUE or match["about"]:
        count = f"about {said} {unit}" if match["about"] else f"{said} {unit}"
        return f"{count} {where} {_at_scale(unit, day)}"
    n = int(said) if said.isdigit() else _NUMBERS[said]
    match unit.rstrip("s"):
        case "day":
            return format_date(day + sign * timedelta(days=n))
        case "week":
            return f"around {format_date(day + sign * timedelta(weeks=n))}"
        case "weekend":
            return (
                f"the weekend {where} {format_date(day)}" if n == 1 else f"{said} weekends {where} {format_date(day)}"
            )
        case "month":
            return _month(day, sign * n)
        case "year":
            return _year(day.year + sign * n)
        case weekday:
            return format_date(_weekday_before(day, weekday) - timedelta(weeks=n - 1)) if sign < 0 else None


def _at_scale(unit: str, day: date) -> str:
    match unit.rstrip("s"):
        case "year":
            return str(day.year)
        case "month":
            return _month(day, 0)
        case _:
            return format_date(day)


def _ago(match: re.Match[str], day: date) -> str | None:
    return _shifted(match, day, -1)


def _from_now(match: re.Match[str], day: date) -> str | None:
    return _shifted(match, day, 1)


def _in_future(match: re.Match[str], day: date) -> str | None:
    clause = re.split(r"[.!?;\n]", match.string[: match.start()])[-1].rpartition(",")[2]
    return _shifted(match, day, 1) if _AHEAD.search(clause) and not _BEHIND.search(clause) else None


def _period(match: re.Match[str], day: date) -> str | None:
    """last | this | next week, weekend, month or year."""
    which, unit = _which(match), match["unit"].lower()
    step = {"last": -1, "this": 0, "next": 1}[which]
    if unit == "year":
        return _year(day.year + step)
    if unit == "month":
        return _month(day, step)
    if step:
        return f"the {unit} {'before' if step < 0 else 'after'} {format_date(day)}"
    if unit == "week":
        return f"the week of {format_date(day)}"
    if day.weekday() < 3:
        return None  # on a Monday "this weekend" may well be the last one
    saturday = day - timedelta(days=1) if day.weekday() == 6 else day + timedelta(days=5 - day.weekday())
    return f"the weekend of {format_date(saturday)}"


def _which(match: re.Match[str]) -> str:
    words = match["which"].lower().split()
    return {"past": "last", "coming": "this"}.get(words[-1], words[-1])


def _weekday_before(day: date, weekday: str) -> date:
    return day - timedelta(days=(day.weekday() - _WEEKDAYS.index(weekday) - 1) % 7 + 1)


def _named_day(match: re.Match[str], day: date) -> str | None:
    which, wanted = _which(match), _WEEKDAYS.index(match["weekday"].lower())
    if which == "last":
        return format_date(_weekday_before(day, match["weekday"].lower()))
    if which == "next" and wanted > day.weekday():
        return None  # said on a Monday, "next Friday" is this week's for some and next week's for others
    ahead = (wanted - day.weekday()) % 7
    return format_date(day + timedelta(days=ahead or (7 if which == "next" else 0)))


def _named_month(match: re.Match[str], day: date) -> str:
    which, month = _which(match), _MONTHS.index(match["month"]) + 1
    step = {"last": -(month >= day.month), "this": 0, "next": int(month <= day.month)}[which]
    return f"{match['month']} {_year(day.year + step)}"


def _season(match: re.Match[str], day: date) -> str | None:
    which, season = _which(match), match["season"].lower()
    if season == "winter":
        return None  # it spans two years
    last_month = {"spring": 5, "summer": 8, "fall": 11, "autumn": 11}[season]
    if which == "next":
        return f"{season} {_year(day.year + 1)}" if day.month >= last_month - 2 else None
    return f"{season} {_year(day.year - (which == 'last' and day.month <= last_month))}"


def _rule(pattern: str, meaning: Callable[[re.Match[str], date], str | None], flags: int = re.IGNORECASE) -> _Rule:
    return _Rule(re.compile(pattern, flags), meaning)


def _any_case(words: str) -> str:
    """A pattern for the words with a small or a capital first letter, beside names whose case matters."""
    return "|".join(f"[{word[0].upper()}{word[0]}]{word[1:]}" for word in words.split("|"))


_ABOUT = r"(?P<about>\s+or\s+(?:so|two))?"
_UNIT = r"(?P<unit>days?|weeks?|weekends?|months?|years?)"
_RULES: Sequence[_Rule] = (
    _rule(r"\b(?:the\s+)?day\s+before\s+yesterday\b", _day(-2)),
    _rule(r"\b(?:the\s+)?day\s+after\s+tomorrow\b", _day(2)),
    _rule(rf"\byesterday{_PART}\b{_ITS}", _day(-1)),
    _rule(rf"{_NOT_THE}\blast\s+night\b{_ITS}", _day(-1)),
    _rule(rf"\btomorrow{_PART}\b{_ITS}", _day(1)),
    _rule(rf"\b(?:today|tonight|this\s+(?:morning|afternoon|evening))\b{_ITS}", _today),
    _rule(rf"\b{_N}\s+(?P<unit>days?|weeks?|weekends?|months?|years?|{'|'.join(f'{d}s?' for d in _WEEKDAYS)})"
          rf"{_ABOUT}\s+ago\b", _ago),
    _rule(rf"\b{_N}\s+{_UNIT}{_ABOUT}\s+from\s+(?:now|today)\b", _from_now),
    _rule(rf"\bin\s+{_N}\s+{_UNIT}(?P<about>\s+or\s+so)?(?=\s*(?:[.,;:!?)]|$|(?:and|so|to|with|for)\b))",
          _in_future),
    _rule(rf"{_NOT_THE}\b(?P<which>this\s+past|last|this|next|this\s+coming)\s+"
          rf"(?P<unit>week|weekend|month|year)\b(?!\s+of\b){_ITS}", _period),
    _rule(r"\bthe\s+week\s+before\s+last\b", lambda _, day: f"two weeks before {format_date(day)}"),
    _rule(r"\bthe\s+weekend\s+before\s+last\b", lambda _, day: f"two weekends before {format_date(day)}"),
    _rule(r"\bthe\s+week\s+before(?=\s*(?:[.!?;]|$))", lambda _, day: f"the week before {format_date(day)}"),
    _rule(rf"{_NOT_THE}\b(?P<which>this\s+past|last|this|next|this\s+coming)\s+{_WEEKDAY}{_PART}\b(?!\s+of\b){_ITS}",
          _named_day),
    _rule(rf"{_NOT_THE}\b(?P<which>{_any_case('last|this|next')})\s+(?P<month>{'|'.join(_MONTHS)})\b"
          rf"(?!\s+(?:of|be|have|not|\d)\b){_ITS}", _named_month, 0),
    _rule(rf"{_NOT_THE}\b(?P<which>this\s+past|last|this|next|this\s+coming)\s+"
          rf"(?P<season>spring|summer|fall|autumn|winter)\b(?!\s+of\b){_ITS}", _season),
)  # fmt: skip

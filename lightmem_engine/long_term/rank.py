"""The order of memories for one question: a sum of normalised scores. Pure numpy.

    score = lexical / max                      words of the question, neighbours' words included
          + .8 * z(cosine) / 4                 meaning
          + .3 * z(mean cosine) / 4            graph: meaning of what was said around it, two turns to either side
          + .3 * z(cosine of the turn before) / 4, if that is a question: this may be its answer; graph, too
          + .1 * walk                          graph: how near it is to the things named; 3 * walk, if the question asks
                                               what these have to do with each other
          + .7 * [said by the one person named], or 1.5 * [said by a person, not by the assistant] if nobody is named
          + 1 * share of the named date's parts (year, month, day) that the entry's day agrees with, or all of it
                since or before that date
          + 1 * .5 ** (age / half-life)        if one is set
          - .1 * [ends with a question mark]   questions rarely hold answers

One setting for all data; `bench/bench_recall.py` measures what each term contributes. Normalisation runs over all live
documents of the user, so a filter changes which entries are returned and not how they compare.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from lightmem_engine.long_term.query import DateMention, Question, is_anonymous
from lightmem_engine.types import ROLES, STATES, Columns, Floats

Strategy = Literal["embedding", "context", "graph", "embedding+context", "embedding+graph", "context+graph", "hybrid"]
Part = Literal["embedding", "context", "graph"]
Mask = npt.NDArray[np.bool_]

_ASSISTANT = ROLES.index("assistant")
_CURRENT = [STATES.index("pending"), STATES.index("active")]
_ENDED = [STATES.index("superseded"), STATES.index("expired"), STATES.index("archived")]
_NEVER = np.iinfo(np.int64).max
_DAY_MS = 86_400_000
_NOBODY = -1
_REACH = 2  # neighbours on either side


@dataclass(frozen=True, slots=True)
class Weights:
    """What each sign is worth; lexical search has weight 1."""

    dense: float = 0.8
    around: float = 0.3
    answer: float = 0.3
    walk: float = 0.1
    link: float = 3.0
    named_speaker: float = 0.7
    person: float = 1.5
    date: float = 1.0
    question: float = 0.1


DEFAULT_WEIGHTS = Weights()


def has(strategy: Strategy, part: Part) -> bool:
    """Whether a strategy goes by this; `hybrid` goes by everything."""
    return strategy == "hybrid" or part in strategy.split("+")


def needs_vector(strategy: Strategy) -> bool:
    """Whether the question must be embedded: the graph, too, spreads meaning."""
    return strategy != "context"


def fuse(
    question: Question,
    columns: Columns,
    lexical: Floats | None,
    cosine: Floats | None,
    strategy: Strategy = "hybrid",
    weights: Weights = DEFAULT_WEIGHTS,
    walk: Floats | None = None,
) -> Floats:
    """float32 [slots]; the score of every document. Dead slots have one too: mask them.

    lexical, cosine, walk: as `SearchIndex` gives them; None where not needed. A document without a vector yet is taken
        to mean as much as its words say, in every strategy.
    """
    total: npt.NDArray[np.floating] = np.zeros(len(columns.live), np.float32)
    words = total if lexical is None else lexical / max(float(lexical.max(initial=0.0)), 1e-9)
    if has(strategy, "context"):
        total = total + words
    if cosine is not None:
        total = total + meaning_term(columns, cosine, words, strategy, weights)
    if walk is not None:
        total = total + (weights.link if question.asks_link else weights.walk) * walk
    total = total + speaker_term(question, columns, weights)
    total = total + weights.date * date_term(question.dates, columns.day)
    return np.asarray(total - weights.question * columns.asks, np.float32)


def meaning_term(
    columns: Columns,
    cosine: Floats,
    words: npt.NDArray[np.floating],
    strategy: Strategy = "hybrid",
    weights: Weights = DEFAULT_WEIGHTS,
) -> Floats:
    """float32 [slots]; what a document means and, in the graph, what those around it mean, and whether it follows a
    question like this one. A short turn says little alone, and an answer seldom repeats what it was asked.

    words: float [slots]; stands in for the meaning of a document without a vector.
    """
    own = _standardised(cosine, columns.live) / 4
    own = np.where(np.isnan(own), words, own)
    found = weights.dense * own if has(strategy, "embedding") else np.zeros_like(own)
    if has(strategy, "graph"):
        around = _standardised(_mean_around(columns, cosine), columns.live) / 4
        asked = _padded(np.where(columns.asks, own, 0)).take(columns.before)
        found = found + weights.around * np.where(np.isnan(around), words, around) + weights.answer * asked
    return np.asarray(found, np.float32)


def speaker_term(question: Question, columns: Columns, weights: Weights = DEFAULT_WEIGHTS) -> Floats:
    """float32 [slots]; who is asked about. Two people named say nothing; nor does silence among people only."""
    if len(question.speakers) > 1:
        return np.zeros(len(columns.live), np.float32)
    if question.speakers:
        named = np.array([name.casefold() in question.speakers for name in columns.speakers], np.bool_)
        return np.asarray(weights.named_speaker * named[columns.speaker], np.float32)
    anonymous = np.array([is_anonymous(name) for name in columns.speakers], np.bool_)
    machine = (columns.role == _ASSISTANT) & anonymous[columns.speaker]
    wanted = machine if question.asks_assistant else ~machine
    return np.asarray(weights.person * wanted, np.float32)


def date_term(dates: Sequence[DateMention], days: npt.NDArray[np.int32]) -> Floats:
    """float32 [slots]; the share of a date's given parts that each day agrees with, the best of all dates. Of a date
    since or before which something was, 1 for all such days."""
    best = np.zeros(len(days), np.float32)
    if not dates or not len(days):
        return best
    distinct, place = np.unique(days, return_inverse=True)
    calendar = [dt.date.fromordinal(int(day)) if day > 0 else None for day in distinct]
    for mention in dates:
        edge = None if mention.bound == "on" else _first_day(mention, calendar[-1])
        if edge is None:
            share = np.array([_agreement(mention, day) for day in calendar], np.float32)
        else:
            since = mention.bound == "since"
            share = np.array([day is not None and (day >= edge) == since for day in calendar], np.float32)
        best = np.maximum(best, share[place])
    return best


def age_term(event_time: npt.NDArray[np.int64], moment: dt.datetime, half_life_days: float) -> Floats:
    """float32 [slots]; 1 for what happens at this moment or later, a half for what is one half-life old."""
    age = (round(moment.timestamp() * 1000) - event_time.astype(np.float64)) / _DAY_MS
    return np.asarray(np.exp2(-np.maximum(age, 0) / half_life_days), np.float32)


def eligible_at(columns: Columns, now: dt.datetime, as_of: dt.datetime | None) -> Mask:
    """bool [slots]; what may be recalled: pending and active entries that hold now and what was folded into such, or
    all that held at `as_of`.

    What is superseded, expired or archived (because a newer entry says the same) held until its `valid_to`; without a
    `valid_to` it was withdrawn, and never held.
    """
    moment = round((as_of or now).timestamp() * 1000)
    current = np.isin(columns.state, _CURRENT)
    if as_of is None:
        holds = current & (columns.valid_to > moment)
        return np.asarray(columns.live & (holds | columns.is_folded), np.bool_)
    ended = np.isin(columns.state, _ENDED) & (columns.valid_to != _NEVER)
    held = (columns.event_time <= moment) & (columns.valid_to > moment)
    return np.asarray(columns.live & (current | ended) & held, np.bool_)


def order(scores: Floats, eligible: Mask, limit: int) -> npt.NDArray[np.int64]:
    """The best `limit` eligible slots, best first; ties keep the order of arrival."""
    slots = np.flatnonzero(eligible)
    if len(slots) > limit:
        cut = np.partition(scores[slots], len(slots) - limit)[len(slots) - limit]
        slots = slots[scores[slots] >= cut]
    return slots[np.argsort(-scores[slots], kind="stable")][:limit]


def _mean_around(columns: Columns, cosine: Floats) -> Floats:
    """The mean cosine of each document and of those up to `_REACH` places away in its session; nan if none is known."""
    known = ~np.isnan(cosine)
    is_whole = bool(known.all())
    value, counted = _padded(cosine if is_whole else np.where(known, cosine, 0)), _padded(known)
    total, count = value[:-1].copy(), counted[:-1].astype(np.float32)
    for link in (columns.before, columns.after):
        at, further = link, _padded(link, _NOBODY)
        for step in range(_REACH):
            total += value.take(at)
            count += (at >= 0) if is_whole else counted.take(at)
            if step + 1 < _REACH:
                at = further.take(at)
    with np.errstate(invalid="ignore"):  # nothing known of nobody
        return np.asarray(total / count, np.float32)


def _padded(values: npt.NDArray[Any], last: int = 0) -> npt.NDArray[Any]:
    """With one element more, which is what the link to nobody, -1, leads to."""
    return np.append(values, np.array([last], values.dtype))


def _standardised(values: Floats, live: Mask) -> Floats:
    known = values[live & ~np.isnan(values)]
    if not len(known):
        return np.full_like(values, np.nan)
    return np.asarray((values - known.mean()) / (known.std() + 1e-6), np.float32)


def _first_day(mention: DateMention, newest: dt.date | None) -> dt.date | None:
    """The day with which a date begins; without a year the last one such that is not after the newest memory."""
    month, day = mention.month or 1, mention.day or 1
    latest = newest.year if newest is not None else 0
    for year in (latest, latest - 1) if mention.year is None else (mention.year,):
        try:
            first = dt.date(year, month, day)
        except ValueError:  # 30 February, or no memory has a day
            continue
        if mention.year is not None or (newest is not None and first <= newest):
            return first
    return None


def _agreement(mention: DateMention, day: dt.date | None) -> float:
    if day is None:
        return 0.0
    given = [
        (wanted, actual)
        for wanted, actual in ((mention.year, day.year), (mention.month, day.month), (mention.day, day.day))
        if wanted is not None
    ]
    return sum(wanted == actual for wanted, actual in given) / len(given)

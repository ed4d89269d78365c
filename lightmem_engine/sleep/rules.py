"""Decisions that need no model, and pairs that no model needs to see. Pure.

Careful by design: what is not plainly the same or plainly corrected is left as it is, because a missed correction is
still outranked by its newer sibling, and a fact superseded by mistake is out of sight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from lightmem_engine.claims import Claim, Sentence, plain, sentences
from lightmem_engine.people import subject
from lightmem_engine.text import search_terms
from lightmem_engine.types import Action, Decision, SleepNote

Known = Callable[[SleepNote, SleepNote], bool]


@dataclass(frozen=True, slots=True)
class Reading:
    """What rules see in an entry. told: its sentences that say something."""

    note: SleepNote
    words: tuple[str, ...]
    told: tuple[Sentence, ...]
    terms: frozenset[str]

    @property
    def only(self) -> Sentence | None:
        """Its one statement, if it makes exactly one."""
        return self.told[0] if len(self.told) == 1 else None


def read(note: SleepNote) -> Reading:
    """An entry as rules see it."""
    told = tuple(part for part in sentences(note.words) if not (part.is_question or part.is_idle))
    # A fact names who said it; that two facts have this in common says nothing.
    terms = frozenset(search_terms(note.words)).difference(search_terms(note.speaker))
    return Reading(note, plain(note.words), told, terms)


def matters(target: Reading, source: Reading) -> bool:
    """Whether a model should be asked what the newer one does to the older one."""
    return may_matter(target, source) and bool(target.terms & source.terms)


def may_matter(target: Reading, source: Reading) -> bool:
    """Like `matters`, even if the two have no word in common: who cannot stand it today may hate it tomorrow."""
    return _may_meet(target.note, source.note) and bool(target.told) and bool(source.told)


def apart(target: Reading, source: Reading) -> bool:
    """Whether their words tell that they are not about the same: not the same person, or not the same thing. What
    somebody says of himself, and a sentence without an "I", are not about the same person."""
    people = [{subject(part.words) for part in reading.told} for reading in (target, source)]
    if all(people) and people[0].isdisjoint(people[1]) and (None not in people[0] | people[1] or {"i"} in people):
        return True
    things = [_things(reading) for reading in (target, source)]
    return all(things) and things[0].isdisjoint(things[1])


def _things(reading: Reading) -> frozenset[tuple[str, str]]:
    """(holder, attribute) of its claims; none if a sentence claims nothing that can be read."""
    claims = [[claim for claim in part.claims if claim.holder] for part in reading.told]
    return frozenset((claim.holder, claim.attribute) for own in claims for claim in own) if all(claims) else frozenset()


def related(readings: Sequence[Reading], most: int) -> Iterator[tuple[int, int]]:
    """Pairs (older, newer) of places that claim something of the same thing, however unlike their words are: at most
    the `most` next newer ones of each. A model should be asked about these, too."""
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, reading in enumerate(readings):
        for key in _keys(reading):
            if key[0] == "claim":
                groups.setdefault(key, []).append(place)
    for places in groups.values():
        for at, target in enumerate(places):
            for source in places[at + 1 : at + 1 + most]:
                if _may_meet(readings[target].note, readings[source].note):
                    yield target, source


def decide(readings: Sequence[Reading], fresh: Iterable[str], known: Known, *, may_supersede: bool) -> list[Decision]:
    """What is plain: duplicates and, if wanted, corrections; the oldest target first, at most one decision for each.

    readings: all active entries of a user, the earliest first.   fresh: ids that came or changed since the last time;
    only pairs with one of them are looked at.   known: whether a pair (older, newer) is decided already.
    """
    new = set(fresh)
    groups: dict[tuple[str, ...], list[int]] = {}
    for place, reading in enumerate(readings):
        for key in _keys(reading):
            groups.setdefault(key, []).append(place)
    best: dict[int, tuple[int, Decision]] = {}
    for places in groups.values():
        for at, target in enumerate(places):
            for source in places[at + 1 :]:
                if target in best and best[target][0] <= source:
                    break
                older, newer = readings[target].note, readings[source].note
                if not ({older.id, newer.id} & new) or not _may_meet(older, newer) or known(older, newer):
                    continue
                decision = _verdict(readings[target], readings[source], may_supersede)
                if decision is not None:
                    best[target] = (source, decision)
                    break
    return [best[target][1] for target in sorted(best)]


def _may_meet(target: SleepNote, source: SleepNote) -> bool:
    """One speaker, and not one message: what is said in one breath does not correct itself."""
    same_speaker = (target.role, target.speaker) == (source.role, source.speaker)
    return same_speaker and target.place[0] != source.place[0]


def _keys(reading: Reading) -> Iterable[tuple[str, ...]]:
    """What two entries must share for rules to say something about them."""
    who = (reading.note.role, reading.note.speaker)
    if reading.told:
        yield ("same", *who, *_without_speaker(reading))
    yield from dict.fromkeys(
        ("claim", *who, claim.holder, claim.attribute) for part in reading.told for claim in part.claims
    )


def _verdict(target: Reading, source: Reading, may_supersede: bool) -> Decision | None:
    older, newer = target.note, source.note

    def decided(action: Action, reason: str) -> Decision:
        return Decision(older.id, action, (newer.id,), reason, newer.id)

    if _without_speaker(target) == _without_speaker(source):
        return decided("duplicate", "says the same in the same words")
    statement = target.only
    if statement is None or not statement.claims:
        return None
    old = statement.claims[0]
    for part in source.told:
        for new in part.claims:
            if (new.holder, new.attribute) != (old.holder, old.attribute) or old.is_negated:
                continue
            if new.value == old.value:
                if not new.is_negated and old.is_single and source.only is not None:
                    return decided("duplicate", "says the same of the same thing")
                if new.is_negated and may_supersede and older.role == "user":
                    return decided("supersede", "is said to hold no longer")
            elif may_supersede and older.role == "user" and _corrects(old, new, part):
                return decided("supersede", "the same thing with another value, and a word of change")
    return None


def _corrects(old: Claim, new: Claim, part: Sentence) -> bool:
    """A mark of change, strong enough: where things may add up, "now" and "update" are not."""
    return not new.is_negated and old.shape == new.shape and part.force >= (1 if new.is_single else 2)


def _without_speaker(reading: Reading) -> tuple[str, ...]:
    name = plain(reading.note.speaker)
    words = reading.words
    return words[len(name) :] if name and words[: len(name)] == name else words

"""Invented people and what is told about them on which day: the raw material of every task. Pure and seeded."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from lightmem_engine.prompts import v1
from lightmem_engine.training.keeping import Said, keep
from lightmem_engine.training.phrases import ATTRIBUTES, CHANGES, CLOSINGS, OPENINGS, RELATIONS, Attribute
from lightmem_engine.training.values import FIRST_DAY, NUM_DAYS, Values

USER = "user"
_CHOICE = re.compile(r"\[([^|\]]*)\|([^\]]*)\]")
_RELATIVE = {0: "today", -1: "yesterday", 1: "tomorrow"}


@dataclass(frozen=True, slots=True)
class Person:
    """The owner of a memory ("user" or a name), or somebody of theirs."""

    owner: str
    relation: str = ""

    def forms(self, speaker: str | None) -> dict[str, str]:
        """who, whose, whom as the speaker says them; None is a narrator, who calls nobody "I"."""
        own = speaker == self.owner
        name = "the user" if self.owner == USER else self.owner
        if not self.relation:
            return (
                {"who": "I", "whose": "my", "whom": "me"} if own else {"who": name, "whose": f"{name}'s", "whom": name}
            )
        who = f"{'my' if own else name + chr(39) + 's'} {self.relation}"
        return {"who": who, "whose": f"{who}'s", "whom": who}


@dataclass(frozen=True, slots=True)
class Key:
    """What a question can be about: one attribute of one person."""

    person: Person
    attribute: Attribute
    noun: str = ""

    def statement(self, value: str, speaker: str | None, form: int = 0, when: str = "") -> str:
        """A clause without full stop, as `speaker` says it (None: a narrator); form 0 is the one facts are kept in."""
        return self._fill(self.attribute.say[form], speaker, v=value, when=when or f"on {value}")

    def question(self, asker: str, form: int) -> str:
        """A question with a capital and its mark."""
        return _capital(self._fill(self.attribute.ask[form], asker))

    def answer(self, value: str) -> str:
        """What the assistant says to the user: "Your sister's home: Denver." The topic comes first, so that what the
        value is looked up by stands right before it."""
        whose = self.person.forms(USER)["whose"]
        whose = f"your{whose[2:]}" if whose.startswith("my") and self.person.owner == USER else whose
        return f"{_capital(whose)} {self.attribute.topic.format(n=self.noun)}: {value}"

    def fact(self, value: str) -> str:
        """The sentence in which the fact is kept."""
        return f"{_capital(self.statement(value, None))}."

    def needed(self, value: str) -> tuple[str, ...]:
        """What a text must show to tell that the key has this value; empty parts are left out."""
        return tuple(filter(None, (value, self.noun)))

    def _fill(self, phrase: str, speaker: str | None, **slots: str) -> str:
        own = speaker == self.person.owner and not self.person.relation
        chosen = _CHOICE.sub(lambda match: match[1] if own else match[2], phrase)
        return chosen.format(n=self.noun, **self.person.forms(speaker), **slots)


@dataclass(frozen=True, slots=True)
class Note:
    """One thing told: `text` is what a memory line shows after the date. Without key it is small talk.

    is_echo: an answer that the assistant gave about the key; it tells nothing new, and may be out of date.
    """

    event_time: datetime
    speaker: str
    text: str
    key: Key | None = None
    value: str = ""
    is_echo: bool = False

    @property
    def shown(self) -> str:
        """The text with its speaker in front, as a remembered turn reads; a fact has no speaker."""
        return f"{self.speaker}: {self.text}" if self.speaker else self.text

    @property
    def said(self) -> Said:
        """The text for compression."""
        return Said(self.text, () if self.key is None else self.key.needed(self.value))


@dataclass(frozen=True, slots=True)
class Line:
    """A memory as prompts show it (`v1.Dated`)."""

    event_time: datetime
    text: str


class Teller:
    """Puts keys and values into words. `noise` from 0 (plain sentences) to 1 (chatter around most of them)."""

    def __init__(self, rng: random.Random, values: Values, noise: float) -> None:
        self.rng = rng
        self.values = values
        self.noise = noise

    def people(self, owner: str, count: int) -> list[Person]:
        """The owner and others, some of theirs and some with a name of their own."""
        people = [Person(owner)]
        while len(people) < count:
            other = Person(self.values.draw("name")) if self.rng.random() < 0.25 else Person(owner)
            if other.owner == owner or self.rng.random() < 0.2:
                other = Person(other.owner, self.rng.choice(RELATIONS))
            if other not in people:
                people.append(other)
        return people

    def keys(self, people: Sequence[Person], count: int) -> list[Key]:
        """Distinct keys over few attributes, so that they are easily confused; fewer if there are not so many."""
        rng = self.rng
        some = rng.sample(ATTRIBUTES, min(len(ATTRIBUTES), max(2, round(count * rng.uniform(0.5, 1.2)))))
        slots = [(a, noun) for a in some for noun in (rng.sample(a.nouns, min(2, len(a.nouns))) if a.nouns else ("",))]
        every = [Key(person, attribute, noun) for person in people for attribute, noun in slots]
        return rng.sample(every, min(count, len(every)))

    def tell(self, key: Key, day: datetime, speaker: str, *, change: bool = False, value: str = "") -> Note:
        """A note of the key with a fresh value (or the one given), in the words of `speaker` (empty: a kept fact)."""
        value = value or self.values.draw(key.attribute.kind, day.date())
        if not speaker:
            return Note(day, "", key.fact(value), key, value)
        form = self.rng.randrange(len(key.attribute.say))
        clause = key.statement(value, speaker, form, self._when(value, day.date()))
        if change and self.rng.random() < 0.7:
            text = self.rng.choice(CHANGES).format(s=clause, S=_capital(clause))
        else:
            text = f"{_capital(clause)}."
        return Note(day, speaker, self.dress(text), key, value)

    def dress(self, text: str) -> str:
        """The sentence, at times among others."""
        if self.rng.random() < self.noise * 0.5:
            text = f"{self.rng.choice(OPENINGS)} {text}"
        if self.rng.random() < self.noise * 0.3:
            text = f"{text} {self.rng.choice(CLOSINGS)}"
        return text

    def keep(self, notes: Sequence[Note]) -> list[str]:
        """What memory shows of each note: facts as they are, turns compressed with those of their day; the newest may
        still wait for it."""
        shown = [note.shown for note in notes]
        if self.rng.random() > self.noise:
            return shown
        waiting = self.rng.randint(1, 4) if self.rng.random() < 0.3 else 0
        days: dict[datetime, list[int]] = {}
        for i, note in enumerate(notes[: max(0, len(notes) - waiting)]):
            if note.speaker:
                days.setdefault(note.event_time, []).append(i)
        for day, places in days.items():
            for i, text in zip(places, keep(self.rng, [notes[i].said for i in places], day), strict=True):
                shown[i] = f"{notes[i].speaker}: {text}"
        return shown

    def moments(self, count: int) -> list[datetime]:
        """Distinct times of one day, ascending."""
        (day,) = self.days(1)
        return [day + timedelta(minutes=minutes) for minutes in sorted(self.rng.sample(range(600), count))]

    def days(self, count: int) -> list[datetime]:
        """Distinct days within about two years, ascending."""
        first = FIRST_DAY + timedelta(days=self.rng.randrange(NUM_DAYS - 730))
        span = self.rng.choice((30, 120, 700))
        offsets = sorted(self.rng.sample(range(span), count))
        return [_noon(first + timedelta(days=offset)) for offset in offsets]

    def _when(self, value: str, today: date) -> str:
        for offset, words in _RELATIVE.items():
            if value == v1.format_date(today + timedelta(days=offset)):
                return f"{words} ({value})"
        for back in range(2, 15):
            if value == v1.format_date(today - timedelta(days=back)):
                return f"{back} days ago ({value})"
        return f"on {value}"


def _noon(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, 12, tzinfo=UTC)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]

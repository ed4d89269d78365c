"""Notes that are easily taken for corrections of each other: the same thing of other people, other things of the same
person, and among them the same thing of the same person told again. What a memory asked about itself looks like."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from lightmem_engine.prompts import v1
from lightmem_engine.training.examples import Draw, Example, compact
from lightmem_engine.training.keeping import keep
from lightmem_engine.training.lives import USER, Key, Line, Note, Teller
from lightmem_engine.training.phrases import ATTRIBUTES, CHATTER, CLOSINGS
from lightmem_engine.training.values import Values

Fate = Literal["ignore", "supersede", "duplicate"]


@dataclass(slots=True)
class Told:
    """A note, and what a later one does to it. newer: None if it stands."""

    note: Note
    fate: Fate = "ignore"
    newer: Told | None = None


def alike(draw: Draw) -> Example:
    """The notes as a memory shows them, compressed or not, and one right action for each one asked about."""
    rng = draw.rng
    noise = draw.level.noise if rng.random() < 0.5 else 0.0
    teller = Teller(rng, Values(rng, draw.split), noise)
    notes = told(draw, teller, max(2, draw.between(draw.level.notes)))
    is_compressed = rng.random() < 0.25 * draw.level.noise  # a memory shows what was said, if it still has it
    lines = [Line(one.note.event_time, _shown(draw, one.note, is_compressed)) for one in notes]
    asked = list(targets(draw, notes))
    decisions = [_decision(notes, target) for target in asked]
    answer = {"role": "assistant", "content": compact({"decisions": decisions})}
    messages = v1.decide(lines, [target + 1 for target in asked])
    return Example((*messages, answer), ("alike",), schema=v1.DECIDE)


def _shown(draw: Draw, note: Note, is_compressed: bool) -> str:
    if not (is_compressed and note.speaker):
        return note.shown
    (kept,) = keep(draw.rng, [note.said], note.event_time)
    return f"{note.speaker}: {kept}"


def _decision(notes: list[Told], target: int) -> dict[str, Any]:
    one = notes[target]
    decision: dict[str, Any] = {"entry": target + 1, "action": one.fate}
    if one.newer is not None:
        decision["by"] = next(i for i, other in enumerate(notes, 1) if other is one.newer)
    return decision


def told(draw: Draw, teller: Teller, room: int) -> list[Told]:
    """`room` notes of one speaker, the earliest first; the first of them is the one that the others resemble.

    Half of the time nothing has become of it: then only look-alikes follow.
    """
    rng = draw.rng
    owner = USER if rng.random() < 0.8 else teller.values.draw("name")
    speaker = owner if rng.random() < 0.85 else ""
    first, *others = _keys(draw, teller, owner, room)
    moments = _moments(teller, room)
    found = [Told(teller.tell(first, moments[0], speaker))]
    again = rng.randrange(1, room) if rng.random() < 0.5 else 0
    standing = {first: found[0]}
    for place in range(1, room):
        if place == again:
            key = first
        elif rng.random() < 0.15 * draw.level.noise:
            text = f"{rng.choice(CHATTER)} {rng.choice(CLOSINGS)}"
            found.append(Told(Note(moments[place], speaker, text)))
            continue
        else:
            key = rng.choice(list(standing)[1:]) if len(standing) > 1 and rng.random() < 0.15 else others.pop()
        one = _tell(teller, key, moments[place], speaker, standing.get(key))
        found.append(one)
        standing[key] = one
    return found


def _tell(teller: Teller, key: Key, when: datetime, speaker: str, before: Told | None) -> Told:
    """The key told, or told again: mostly with another value, and mostly with a word of change."""
    if before is None:
        return Told(teller.tell(key, when, speaker))
    if teller.rng.random() < 0.2:
        one = Told(teller.tell(key, when, speaker, value=before.note.value))
        before.fate, before.newer = "duplicate", one
        return one
    is_marked = teller.rng.random() < 0.75
    while (note := teller.tell(key, when, speaker, change=is_marked)).value == before.note.value:
        pass
    one = Told(note)
    before.fate, before.newer = "supersede", one
    return one


def _keys(draw: Draw, teller: Teller, owner: str, count: int) -> list[Key]:
    """Different keys, the first and then, in any order, what is like it: mostly other things of the same person, as
    those are what a memory asks about, or the same thing of others."""
    rng = draw.rng
    is_of_one = rng.random() < 0.55
    people = teller.people(owner, rng.randint(2, 4))
    if is_of_one:
        people = [rng.choice(people)]
    one, *rest = rng.sample(ATTRIBUTES, rng.randint(3, 6) if is_of_one else rng.randint(1, 3))
    alike = [other for other in ATTRIBUTES if other.kind == one.kind and other not in (one, *rest)]
    rest += rng.sample(alike, min(len(alike), rng.randint(0, 1)))
    slots = [
        (a, noun) for a in (one, *rest) for noun in (rng.sample(a.nouns, min(3, len(a.nouns))) if a.nouns else ("",))
    ]
    every = [Key(person, attribute, noun) for person in people for attribute, noun in slots]
    first = rng.choice([key for key in every if key.attribute == one])
    others = [key for key in every if key != first]
    rng.shuffle(others)
    if len(others) < count:
        others += [key for key in teller.keys(people, 4 * count) if key not in others and key != first]
    return [first, *others]


def _moments(teller: Teller, count: int) -> list[datetime]:
    """Days in order, or sometimes moments of one day."""
    if teller.rng.random() < 0.2:
        return teller.moments(count)
    spread = teller.days(count)
    return [day + timedelta(hours=1) if teller.rng.random() < 0.2 else day for day in spread]


def targets(draw: Draw, found: list[Told]) -> Iterator[int]:
    """Places asked about: mostly the first alone, as a memory asks that has room for no more; else any that have a
    newer note."""
    if draw.rng.random() < 0.6:
        yield 0
        return
    places = range(len(found) - 1)
    yield from sorted(draw.rng.sample(places, draw.rng.randint(1, len(places))))

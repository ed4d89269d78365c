"""Invented users who correct themselves, repeat themselves, and say what is easily confused with something else.

Values are of the held-out split of `lightmem_engine.training.values`: no model was trained on them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from lightmem_engine.claims import sentences
from lightmem_engine.training.lives import USER, Key, Note, Teller
from lightmem_engine.training.values import Values

Fate = Literal["untouched", "corrected", "correction", "repeated", "repetition"]


@dataclass(frozen=True, slots=True)
class Planted:
    """One message. question: asks for what a `correction` says.   of: the id of the message that it corrects or
    repeats.   is_marked: it says in so many words that something changed."""

    id: str
    when: datetime
    text: str
    fate: Fate
    question: str = ""
    of: str = ""
    is_marked: bool = False


def life(
    seed: int, *, corrections: int = 3, repetitions: int = 2, others: int = 5, noise: float = 0.0
) -> list[Planted]:
    """What one user says, in order of time. The same seed tells the same."""
    rng = random.Random(seed)
    teller = Teller(rng, Values(rng, "held_out"), noise)
    keys = teller.keys(teller.people(USER, 3), corrections + repetitions + others)
    days = iter(teller.days(len(keys) + corrections + repetitions))
    told = [(number, key, teller.tell(key, next(days), USER)) for number, key in enumerate(keys)]
    found = list(_firsts(told, corrections, repetitions))
    for number, key, note in told[: corrections + repetitions]:
        found.append(_second(teller, number, key, note, next(days), is_correction=number < corrections))
    return found


def _firsts(told: list[tuple[int, Key, Note]], corrections: int, repetitions: int) -> Iterator[Planted]:
    for number, _, note in told:
        fate: Fate = "corrected" if number < corrections else "untouched"
        if corrections <= number < corrections + repetitions:
            fate = "repeated"
        yield Planted(f"m{number}", note.event_time, note.text, fate)


def _second(teller: Teller, number: int, key: Key, note: Note, day: datetime, *, is_correction: bool) -> Planted:
    """The same key told again, later: with another value, or word by word."""
    id, of = f"n{number}", f"m{number}"
    if not is_correction:
        return Planted(id, day + timedelta(hours=1), note.text, "repetition", of=of)
    while (again := teller.tell(key, day, USER, change=True)).value == note.value:
        pass
    is_marked = any(sentence.force for sentence in sentences(again.text))
    return Planted(id, day, again.text, "correction", key.question(USER, 0), of, is_marked)

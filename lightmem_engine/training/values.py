"""Open vocabularies: names, places, things, numbers and dates nobody has seen, so that a model must copy them. Pure.

Every value belongs by its hash to one of two splits, so what a held-out exam asks for was never seen in training,
whatever the seeds.
"""

from __future__ import annotations

import hashlib
import random
from datetime import date, timedelta
from typing import Literal

from lightmem_engine.prompts import v1

Split = Literal["train", "held_out"]
Kind = Literal["name", "place", "company", "thing", "title", "number", "money", "date", "day", "time", "code", "recent"]

FIRST_DAY = date(2019, 1, 1)
NUM_DAYS = 3650  # days after the first on which a session may stand
_HELD_OUT_OF = 8  # one value in so many is held out
_ONSETS = (
    *"bcdfghjklmnprstvwzxy",
    *("br", "ch", "cl", "cr", "dr", "fl", "gr", "kl", "pl", "pr", "qu", "sh", "sl", "sp", "st", "th", "tr"),
)
_VOWELS = (*"aeiouaeioy", "ai", "ea", "ee", "ie", "oo", "ou", "ia", "au")
_CODAS = (
    *("", "", "", "", "l", "m", "n", "n", "r", "r", "s", "t", "d", "k", "x", "ck", "ld", "ll", "nd", "ng", "nt", "rd"),
    *("rk", "rn", "rt", "ss", "st", "sh", "th", "lm", "ff"),
)
_PLACE_ENDS = ("", "", "ville", "ton", "burg", "ford", "field", " Bay", " Falls", "stadt", " City", "ham", "port")
_COMPANY_ENDS = ("", "", " Labs", " Bank", " Foods", " Motors", " Systems", " Press", " Clinic", " & Sons", " Studio")
_MAX_DRAWS = 60


def split_of(value: str) -> Split:
    """Which split a value belongs to, whatever its case."""
    digest = hashlib.sha256(value.casefold().encode()).digest()
    return "held_out" if digest[0] % _HELD_OUT_OF == 0 else "train"


def word(rng: random.Random, most: int = 3) -> str:
    """An invented lower-case word of 2 to `most` syllables, sometimes with letters that no rule would put there."""
    parts = [
        rng.choice(_ONSETS) + rng.choice(_VOWELS) + (rng.choice(_CODAS) if rng.random() < 0.4 else "")
        for _ in range(min(most, rng.choice((2, 2, 2, 3))))
    ]
    if rng.random() < 0.15:
        parts.insert(rng.randrange(len(parts) + 1), "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=2)))
    if rng.random() < 0.15:
        parts[0] = parts[0].lstrip("bcdfghjklmnpqrstvwxyz") or parts[0]
    return "".join(parts)


class Values:
    """Draws values of one split. `rng` is the caller's and is the only source of chance."""

    def __init__(self, rng: random.Random, split: Split) -> None:
        self._rng = rng
        self._split = split

    def draw(self, kind: Kind, today: date = FIRST_DAY) -> str:
        """A value as it is written in a sentence. `today` is the day on which it is told; only `recent` needs it.

        Of a `recent` day only those around `today` qualify; if none of them is in this split, `recent` falls back
        to any day of it.
        """
        for _ in range(_MAX_DRAWS):
            value = self._candidate(kind, today)
            if split_of(value) == self._split:
                return value
        return self.draw("date") if kind == "recent" else self.draw(kind)

    def _candidate(self, kind: Kind, today: date) -> str:
        rng = self._rng
        match kind:
            case "name":
                return word(rng).capitalize()
            case "place":
                return word(rng, 2).capitalize() + rng.choice(_PLACE_ENDS)
            case "company":
                return word(rng).capitalize() + rng.choice(_COMPANY_ENDS)
            case "thing":
                return word(rng) if rng.random() < 0.7 else f"{word(rng, 2)} {word(rng, 2)}"
            case "title":
                return " ".join(word(rng, 2).capitalize() for _ in range(rng.randint(1, 3)))
            case "number":
                return str(rng.randint(2, rng.choice((99, 999, 9999))))
            case "money":
                return f"${rng.randint(3, rng.choice((99, 999, 9999)))}"
            case "time":
                return f"{rng.randint(0, 23)}:{rng.choice(range(0, 60, 5)):02d}"
            case "code":
                letters = "".join(rng.choices("ABCDEFGHKLMNPRSTUVWXYZ", k=rng.randint(0, 2)))
                return letters + "".join(rng.choices("0123456789", k=rng.randint(3, 6)))
            case "day":
                return v1.format_date(_any_day(rng)).rsplit(" ", 1)[0]
            case "date":
                return v1.format_date(_any_day(rng))
            case "recent":
                return v1.format_date(today + timedelta(days=rng.choice((-14, -9, -5, -4, -3, -2, -1, -1, 0, 0, 1))))


def _any_day(rng: random.Random) -> date:
    return FIRST_DAY + timedelta(days=rng.randrange(NUM_DAYS))

"""Entries as sleep sees them, made by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np

from lightmem_engine.sleep import rules
from lightmem_engine.types import Decision, SleepNote

START = datetime(2023, 1, 1, tzinfo=UTC)


def note(number: int, text: str, **fields: Any) -> SleepNote:
    """The `number`-th entry of a user, said on a day of its own."""
    made = SleepNote(
        id=f"e{number}",
        version=1,
        kind="turn",
        text=f"user: {text}",
        words=text,
        speaker="user",
        role="user",
        event_time=START + timedelta(days=number),
        place=(number, 0),
        messages=frozenset((number,)),
        is_part=False,
        vector=np.zeros(2, np.float32),
    )
    return replace(made, **fields)


def fact(number: int, text: str, **fields: Any) -> SleepNote:
    """A fact that a model drew."""
    return replace(note(number, text), kind="fact", text=text, **fields)


def decide(*notes: SleepNote, **options: Any) -> list[Decision]:
    """What rules make of these, all of them new."""
    given: dict[str, Any] = {
        "fresh": [one.id for one in notes],
        "known": lambda target, source: False,
        "may_supersede": True,
    }
    return rules.decide([rules.read(one) for one in notes], **(given | options))

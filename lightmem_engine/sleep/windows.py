"""Which memories are summarised together: windows of time, and what each of them recalls. Pure numpy.

A window is a stretch of entries that no summary covers yet, at least `seconds` long and, as long as more follow, at
least `least` entries. With it come its seeds, the earlier entries that are most like it, and everything said in the
same breath as a seed: what happened is told whole or not at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from lightmem_engine.types import SleepNote


@dataclass(frozen=True, slots=True)
class Event:
    """What one summary is made of. own: the window.   recalled: its seeds with what belongs to them; earlier, all of
    them. Both in order of time."""

    own: tuple[SleepNote, ...]
    recalled: tuple[SleepNote, ...]

    @property
    def notes(self) -> tuple[SleepNote, ...]:
        """Everything, in order of time."""
        return self.recalled + self.own


def events(
    notes: Sequence[SleepNote],
    covered: AbstractSet[str],
    *,
    seconds: float,
    least: int,
    most: int,
    seeds: int,
    now: datetime,
) -> list[Event]:
    """The windows that are due, the earliest first; the last one waits until it is over by `seconds`.

    notes: active entries, the earliest first.   covered: ids that a summary tells of.   most: entries of a window;
    a longer one is cut.   seeds: entries it recalls; with what belongs to them at most twice as many.
    """
    open_ = [place for place, note in enumerate(notes) if note.id not in covered]
    found: list[Event] = []
    while open_:
        size = _size([notes[place] for place in open_], timedelta(seconds=seconds), least, most)
        window, open_ = open_[:size], open_[size:]
        is_over = now - notes[window[-1]].event_time >= timedelta(seconds=seconds)
        if not open_ and size < least and not is_over:
            break
        found.append(Event(tuple(notes[place] for place in window), _recalled(notes, window, seeds)))
    return found


def _size(notes: Sequence[SleepNote], span: timedelta, least: int, most: int) -> int:
    """How many notes the window that begins with the first one has."""
    end = notes[0].event_time + span
    inside = sum(note.event_time <= end for note in notes)  # they are in order of time
    return min(max(inside, least), most, len(notes))


def _recalled(notes: Sequence[SleepNote], window: Sequence[int], seeds: int) -> tuple[SleepNote, ...]:
    """Of what came before the window, what is most like it and what was said in the same message."""
    begin = notes[window[0]].event_time
    inside = set(window)
    earlier = [place for place, note in enumerate(notes) if place not in inside and note.event_time < begin]
    if not earlier or not seeds:
        return ()
    mean = np.mean([notes[place].vector for place in window], axis=0)
    scores = np.stack([notes[place].vector for place in earlier]) @ mean
    nearest = [earlier[place] for place in np.argsort(-scores, kind="stable")[:seeds]]
    breaths = {notes[place].place[0] for place in nearest}
    beside = [place for place in earlier if notes[place].place[0] in breaths and place not in nearest]
    return tuple(notes[place] for place in sorted([*nearest, *beside[:seeds]]))

"""Windows of time, and what they recall."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.sleep.windows import Event, events
from lightmem_engine.types import SleepNote
from tests.sleep.note import note as make

START = datetime(2023, 5, 8, 10, tzinfo=UTC)
LATER = START + timedelta(days=400)


def note(number: int, minutes: float, message: int | None = None, like: int = 0) -> SleepNote:
    vector = np.eye(8, dtype=np.float32)[like]
    when = START + timedelta(minutes=minutes)
    place = (number if message is None else message, number)
    return make(number, f"note {number}", id=str(number), event_time=when, place=place, vector=vector)


def ids(found: list[Event]) -> list[str]:
    return ["".join(n.id for n in event.own) for event in found]


def windows(notes: list[SleepNote], covered: set[str] | None = None, **options: float | datetime) -> list[Event]:
    chosen: dict[str, object] = {"seconds": 3600.0, "least": 1, "most": 100, "seeds": 2, "now": LATER} | options
    return events(notes, covered or set(), **chosen)  # type: ignore[arg-type]


def test_a_window_holds_what_was_said_within_its_span_and_no_more() -> None:
    notes = [note(0, 0), note(1, 59), note(2, 60), note(3, 60.1), note(4, 120)]
    assert ids(windows(notes)) == ["012", "34"]


def test_what_a_summary_covers_is_not_told_again() -> None:
    notes = [note(0, 0), note(1, 10), note(2, 300)]
    assert ids(windows(notes, {"0", "1"})) == ["2"]
    assert windows(notes, {"0", "1", "2"}) == []


def test_small_windows_grow_and_large_ones_are_cut() -> None:
    notes = [note(n, 100 * n) for n in range(7)]
    assert ids(windows(notes, least=3)) == ["012", "345", "6"]
    assert ids(windows([note(n, n) for n in range(5)], most=2)) == ["01", "23", "4"]


def test_the_last_window_waits_until_it_is_over() -> None:
    notes = [note(0, 0), note(1, 300)]
    assert ids(windows(notes, now=START + timedelta(minutes=310), least=2)) == ["01"]
    assert ids(windows(notes, now=START + timedelta(minutes=310))) == ["0", "1"]
    assert ids(windows(notes, now=START + timedelta(minutes=310), least=3)) == []
    assert ids(windows(notes, now=START + timedelta(minutes=361), least=3)) == ["01"]


def test_seeds_are_earlier_alike_and_bring_what_was_said_in_the_same_breath() -> None:
    notes = [note(0, 0, message=1, like=1), note(1, 0, message=1, like=2), note(2, 90, like=3), note(3, 200, like=1)]
    last = windows(notes, seeds=1)[-1]
    assert [n.id for n in last.own] == ["3"]
    assert [n.id for n in last.recalled] == ["0", "1"]


@given(
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 7)), max_size=25),
    st.integers(1, 6),
    st.integers(1, 6),
    st.integers(0, 4),
)
def test_every_note_once_none_its_own_seed_and_all_in_order(
    said: list[tuple[int, int]], least: int, most: int, seeds: int
) -> None:
    notes = [note(n, minutes, like=like) for n, (minutes, like) in enumerate(sorted(said))]
    found = windows(notes, least=least, most=most, seeds=seeds)
    assert [n.id for event in found for n in event.own] == [n.id for n in notes]
    for event in found:
        assert not set(event.recalled) & set(event.own)
        assert len(event.recalled) <= 2 * seeds
        assert all(n.event_time < event.own[0].event_time for n in event.recalled)
        assert list(event.notes) == sorted(event.notes, key=lambda n: n.event_time)
        assert len(event.own) <= most

"""Whose turn it is on a device that somebody waits for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.runtime.courtesy import AGE_SECONDS, PATIENCE_SECONDS, SHARE, Courtesy, Head, Pace, Slice
from lightmem_engine.types import Priority

CHAT, INGEST, SLEEP = int(Priority.FOREGROUND), int(Priority.INGEST), int(Priority.SLEEP)
NOW = 1000.0


def test_nobody_waits_so_the_higher_class_goes_first() -> None:
    ingest, sleep = Head(INGEST, 2, NOW), Head(SLEEP, 1, NOW - 1)
    assert Courtesy().choose([sleep, ingest], NOW).head == ingest
    assert Courtesy().choose([sleep], NOW).head == sleep
    assert Courtesy().choose([], NOW).head is None


def test_background_stands_still_while_a_user_waits_and_goes_on_at_once_after() -> None:
    courtesy, head = Courtesy(), Head(INGEST, 1, NOW)
    courtesy.num_users = 1
    choice = courtesy.choose([head], NOW)
    assert (choice.head, choice.wait) == (None, PATIENCE_SECONDS)
    courtesy.num_users = 0
    assert courtesy.choose([head], NOW).head == head


def test_the_foreground_goes_first_whoever_else_waits() -> None:
    recall, ingest = Head(CHAT, 9, NOW), Head(INGEST, 1, NOW)
    for users in (0, 1):
        courtesy = Courtesy()
        courtesy.num_users = users
        assert courtesy.choose([ingest, recall], NOW).head == recall


def test_what_has_aged_goes_by_age() -> None:
    ingest, sleep = Head(INGEST, 2, NOW - AGE_SECONDS), Head(SLEEP, 1, NOW - AGE_SECONDS)
    assert Courtesy().choose([ingest, sleep], NOW).head == sleep
    fresh = Head(INGEST, 3, NOW)
    assert Courtesy().choose([fresh, sleep], NOW).head == sleep


@given(st.lists(st.floats(0.001, 0.5), min_size=30, max_size=60))
def test_beside_endless_chats_background_gets_its_share_and_no_more(batches: list[float]) -> None:
    courtesy, now, worked = Courtesy(), NOW, 0.0
    courtesy.num_users = 1
    for order, seconds in enumerate(batches):
        head = Head(INGEST, order, NOW)
        choice = courtesy.choose([head], now)
        if choice.head is None:
            assert choice.wait is not None
            now += choice.wait
        assert courtesy.choose([head], now + 1e-9).head == head, "a pause ends when it was said to end"
        courtesy.ran(now, now + seconds)
        now, worked = now + seconds, worked + seconds
    pause = courtesy.choose([Head(INGEST, 99, NOW)], now).wait
    assert pause is not None
    assert worked / (now + pause - NOW) <= SHARE * 1.001
    assert worked / (now + pause - NOW - PATIENCE_SECONDS) >= SHARE * 0.999


def test_batches_are_cut_by_time() -> None:
    pace = Pace()
    assert pace.tokens(Slice(0.005, 7)) == 7
    for _ in range(50):
        pace.ran(1000, 0.1)
    assert pace.tokens(Slice(0.005, 7)) == 50
    assert pace.tokens(Slice(0.005, 700)) == 700


@given(st.floats(0.001, 0.1), st.floats(1e-6, 1e-3))
def test_a_batch_grows_to_what_its_slice_has_room_for_and_not_beyond(launch: float, per_token: float) -> None:
    """Whatever launching a batch costs; where that is nearly all of the slice, it grows slowly."""
    pace, slice_ = Pace(), Slice(0.02, 64)
    room = max(64.0, (slice_.seconds - launch) / per_token)
    for _ in range(300):
        tokens = pace.tokens(slice_)
        assert 64 <= tokens <= room + 1
        pace.ran(tokens, launch + tokens * per_token)
    if launch <= slice_.seconds / 2:
        assert pace.tokens(slice_) >= 0.9 * room - 1

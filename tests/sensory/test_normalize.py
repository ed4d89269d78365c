"""What comes in as messages leaves as complete turns, or is refused by name."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.errors import InvalidInput
from lightmem_engine.sensory.normalize import by_day, normalize
from lightmem_engine.types import Message, TurnDraft

NOW = datetime(2024, 3, 1, 12, 0, tzinfo=UTC)


def run(*messages: Message, **options: Any) -> list[TurnDraft]:
    given = {"timestamp": None, "zone": UTC, "last_event_time": None, "now": NOW, **options}
    return normalize(messages, **given)


def test_roles_may_alternate_in_any_way() -> None:
    roles = ["assistant", "user", "user", "tool", "system", "assistant", "assistant"]
    drafts = run(*(Message(role, "hello") for role in roles))
    assert [draft.role for draft in drafts] == roles
    assert [draft.speaker for draft in drafts] == roles


def test_names_ids_and_metadata_are_kept() -> None:
    (draft,) = run(Message("user", "  hi \n", name=" Ada ", id="m-1", metadata={"a": 1}))
    assert (draft.speaker, draft.id, draft.text, draft.metadata) == ("Ada", "m-1", "  hi \n", {"a": 1})


def test_fresh_ids_differ() -> None:
    drafts = run(Message("user", "a"), Message("user", "a"))
    assert drafts[0].id != drafts[1].id
    assert len(drafts[0].id) == 32


def test_a_blank_name_is_no_name() -> None:
    assert run(Message("user", "a", name=" "))[0].speaker == "user"


def test_own_time_beats_the_calls_beats_now() -> None:
    drafts = run(Message("user", "a", timestamp="2024-01-05"), Message("user", "b"), timestamp="2024-02-02")
    assert [draft.event_time.isoformat() for draft in drafts] == [
        "2024-01-05T00:00:00+00:00",
        "2024-02-02T00:00:00+00:00",
    ]
    assert run(Message("user", "a"))[0].event_time == NOW
    assert run(Message("user", "a", timestamp=0))[0].event_time.year == 1970


def test_now_is_told_in_the_zone() -> None:
    (draft,) = run(Message("user", "a"), zone=ZoneInfo("Asia/Tokyo"), now=datetime(2024, 3, 1, 20, tzinfo=UTC))
    assert draft.event_time.date().isoformat() == "2024-03-02"


def test_an_offset_keeps_the_speakers_day() -> None:
    (draft,) = run(Message("user", "a", timestamp="2023-05-20T23:30:00-07:00"), zone=ZoneInfo("Asia/Tokyo"))
    assert draft.event_time.date().isoformat() == "2023-05-20"


def test_equal_times_are_spaced_by_a_millisecond_also_across_calls() -> None:
    first = run(Message("user", "a"), Message("assistant", "b"), timestamp="2023/05/20 (Sat) 02:21")
    second = run(Message("user", "c"), timestamp="2023/05/20 (Sat) 02:21", last_event_time=first[-1].event_time)
    times = [draft.event_time for draft in first + second]
    assert [time - times[0] for time in times] == [timedelta(milliseconds=i) for i in range(3)]


def test_a_bump_does_not_cross_midnight() -> None:
    drafts = run(*(Message("user", str(i), timestamp="2023-05-20T23:59:59.999") for i in range(500)))
    assert {draft.event_time.date().isoformat() for draft in drafts} == {"2023-05-20"}
    assert all(a.event_time < b.event_time for a, b in itertools.pairwise(drafts))


def test_a_bump_keeps_the_messages_own_offset() -> None:
    drafts = run(
        Message("user", "a", timestamp="2023-05-20T10:00:00+00:00"),
        Message("user", "b", timestamp="2023-05-20T12:00:00+09:00"),
    )
    assert drafts[1].event_time - drafts[0].event_time == timedelta(milliseconds=1)
    assert drafts[1].event_time.utcoffset() == timedelta(hours=9)


def test_a_message_that_arrives_late_keeps_the_day_it_claims() -> None:
    drafts = run(
        Message("user", "a", timestamp="2023-05-21T10:00:00+02:00"),
        Message("user", "b", timestamp="2023-05-20T09:00:00+02:00"),
        Message("user", "c", timestamp="2023-05-01"),
    )
    assert [draft.event_time.date().isoformat() for draft in drafts[:2]] == ["2023-05-21", "2023-05-20"]
    assert all(a.event_time < b.event_time for a, b in itertools.pairwise(drafts))


@given(st.lists(st.sampled_from(["2023-05-20", "2023-05-21T10:00-05:00", "2023/05/19 (Fri) 23:59", 0, 1.7e9])))
def test_times_grow_strictly(stamps: list[str | float]) -> None:
    drafts = run(*(Message("user", "x", timestamp=stamp) for stamp in stamps), zone=ZoneInfo("America/New_York"))
    assert all(a.event_time < b.event_time for a, b in itertools.pairwise(drafts))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (Message("", "a"), "role is missing"),
        (Message(None, "a"), "role is missing"),  # type: ignore[arg-type]
        (Message("robot", "a"), "role must be one of"),
        (Message(["user"], "a"), "role must be one of"),  # type: ignore[arg-type]
        (Message("user", ""), "content is empty"),
        (Message("user", " \n\t"), "content is empty"),
        (Message("user", None), "content must be a text, not NoneType"),  # type: ignore[arg-type]
        (Message("user", b"a"), "content must be a text, not bytes"),  # type: ignore[arg-type]
        (Message("user", "a\ud800"), "content holds half a character pair"),
        (Message("user", "a", name=3), "name must be a text"),  # type: ignore[arg-type]
        (Message("user", "a", id=3), "id must be a text"),  # type: ignore[arg-type]
        (Message("user", "a", id=" "), "id is empty"),
        (Message("user", "a", timestamp="soon"), "'soon' is not a time"),
        (Message("user", "a", timestamp=float("nan")), "is not a time"),
        (Message("user", "a", timestamp=True), "a time must be"),
        (Message("user", "a", metadata=[1]), "metadata must be a mapping"),  # type: ignore[arg-type]
    ],
)
def test_refusals_name_the_message_and_the_reason(message: Message, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"message 1: .*{reason}"):
        run(Message("user", "fine"), message)


def test_a_bad_call_time_is_refused() -> None:
    with pytest.raises(InvalidInput, match="message 0"):
        run(Message("user", "a"), timestamp="soon")


def test_the_end_of_the_calendar_is_refused() -> None:
    with pytest.raises(InvalidInput, match="end of the calendar"):
        run(Message("user", "a"), last_event_time=datetime.max.replace(tzinfo=UTC))


def test_a_reply_without_a_time_was_given_in_its_questions_time() -> None:
    drafts = run(Message("user", "hi", timestamp="2023-05-08T10:00:00"), Message("assistant", "hello"))
    assert [draft.event_time.isoformat() for draft in drafts] == [
        "2023-05-08T10:00:00+00:00",
        "2023-05-08T10:00:00.001000+00:00",
    ]


def test_days_of_a_call_without_a_session() -> None:
    messages = [
        Message("user", "late", timestamp="2023-05-08T23:59:00-05:00"),
        Message("assistant", "good night"),
        Message("user", "morning", timestamp="2023-05-09T08:00:00-05:00"),
    ]
    now = datetime(2026, 1, 1, tzinfo=UTC)
    days = by_day(messages, timestamp=None, zone=UTC, now=now)
    assert [(day, len(part)) for day, part in days] == [("2023-05-08", 2), ("2023-05-09", 1)]

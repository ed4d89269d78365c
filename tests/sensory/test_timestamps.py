"""Every accepted spelling of a moment, and what is refused."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.sensory.timestamps import parse_time

BERLIN = ZoneInfo("Europe/Berlin")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2025-01-10", "2025-01-10T00:00:00+01:00"),
        ("2025-01-10 10:00", "2025-01-10T10:00:00+01:00"),
        ("2025-01-10T10:00:00.1239", "2025-01-10T10:00:00.123000+01:00"),
        ("2025-07-10T10:00", "2025-07-10T10:00:00+02:00"),
        ("2025-01-10T10:00:00Z", "2025-01-10T10:00:00+00:00"),
        ("2025-01-10T10:00:00-08:00", "2025-01-10T10:00:00-08:00"),
        (" 2023/05/20 (Sat) 02:21 ", "2023-05-20T02:21:00+02:00"),
        ("2023/5/2 (Tue) 2:21:07", "2023-05-02T02:21:07+02:00"),
        ("2023-05-20 (Saturday) 2:21", "2023-05-20T02:21:00+02:00"),
        ("2023/05/20", "2023-05-20T00:00:00+02:00"),
        ("2023/05/20 02:21", "2023-05-20T02:21:00+02:00"),
        ("1:56 pm on 8 May, 2023", "2023-05-08T13:56:00+02:00"),
        ("12:05 am on 1 January, 2024", "2024-01-01T00:05:00+01:00"),
        ("12:05 PM on 1 Jan 2024", "2024-01-01T12:05:00+01:00"),
        ("8 May 2023", "2023-05-08T00:00:00+02:00"),
        ("March-15-2024", "2024-03-15T00:00:00+01:00"),
        ("March 15, 2024", "2024-03-15T00:00:00+01:00"),
        (0, "1970-01-01T01:00:00+01:00"),
        (1684540800.9876, "2023-05-20T02:00:00.987000+02:00"),
        (-86400, "1969-12-31T01:00:00+01:00"),
        (datetime(2023, 5, 20, 2, 21), "2023-05-20T02:21:00+02:00"),
        (datetime(2023, 5, 20, 2, 21, tzinfo=UTC), "2023-05-20T02:21:00+00:00"),
    ],
)
def test_accepted(value: object, expected: str) -> None:
    assert parse_time(value, BERLIN).isoformat() == expected


@pytest.mark.parametrize(
    "value",
    [
        "",
        "yesterday",
        "2023-02-30",
        "2023/13/01",
        "0000/01/01",
        "10000-01-01",
        "2023/05/20 (Sat) 25:00",
        "13:05 pm on 1 May, 2023",
        "1:05 pm on 31 June, 2023",
        "1:05 pm on 1 Foo, 2023",
        "Foo 3, 2023",
        "2023/05/20 and more",
        float("nan"),
        float("inf"),
        1e300,
        10**400,
        pytest.param(10**5000, id="huge"),
        True,
        None,
        [2023],
        date(2023, 5, 20),
    ],
)
def test_refused(value: object) -> None:
    with pytest.raises(InvalidInput):
        parse_time(value, BERLIN)


def test_the_ends_of_the_calendar_are_refused_where_utc_has_no_such_moment() -> None:
    with pytest.raises(InvalidInput):
        parse_time("0001-01-01T00:00:00+05:00", UTC)
    with pytest.raises(InvalidInput):
        parse_time("9999-12-31T23:00:00-05:00", UTC)
    assert parse_time("0001-01-01T00:00:00-05:00", UTC).year == 1


def test_a_zone_is_pinned_to_its_offset_so_that_order_survives_clock_changes() -> None:
    before = parse_time(datetime(2023, 10, 29, 2, 30, tzinfo=BERLIN, fold=0), UTC)
    after = parse_time(datetime(2023, 10, 29, 2, 10, tzinfo=BERLIN, fold=1), UTC)
    assert before < after
    assert isinstance(before.tzinfo, timezone)
    assert after.utcoffset() == timedelta(hours=1)


def test_a_long_value_is_shown_shortened() -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_time("x" * 5000, UTC)
    assert len(str(caught.value)) < 200

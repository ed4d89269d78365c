from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.short_term.dates import date_spans, resolve

FRIDAY = datetime(2023, 6, 9, 19, 55, tzinfo=UTC)  # a Friday


@pytest.mark.parametrize(
    ("phrase", "meaning"),
    [
        ("yesterday", "8 June 2023"),
        ("Yesterday evening", "8 June 2023"),
        ("last night", "8 June 2023"),
        ("the day before yesterday", "7 June 2023"),
        ("today", "9 June 2023"),
        ("tonight", "9 June 2023"),
        ("this morning", "9 June 2023"),
        ("tomorrow", "10 June 2023"),
        ("the day after tomorrow", "11 June 2023"),
        ("three days ago", "6 June 2023"),
        ("a day ago", "8 June 2023"),
        ("10 days ago", "30 May 2023"),
        ("two weeks ago", "around 26 May 2023"),
        ("a couple of weeks ago", "around 26 May 2023"),
        ("two weekends ago", "two weekends before 9 June 2023"),
        ("a month ago", "May 2023"),
        ("seven months ago", "November 2022"),
        ("10 years ago", "2013"),
        ("two Fridays ago", "26 May 2023"),
        ("a few days ago", "a few days before 9 June 2023"),
        ("a few years ago", "a few years before 2023"),
        ("last week", "the week before 9 June 2023"),
        ("last weekend", "the weekend before 9 June 2023"),
        ("last month", "May 2023"),
        ("last year", "2022"),
        ("this week", "the week of 9 June 2023"),
        ("this weekend", "the weekend of 10 June 2023"),
        ("this month", "June 2023"),
        ("this year", "2023"),
        ("next week", "the week after 9 June 2023"),
        ("next weekend", "the weekend after 9 June 2023"),
        ("next month", "July 2023"),
        ("next year", "2024"),
        ("this past week", "the week before 9 June 2023"),
        ("this past Sunday", "4 June 2023"),
        ("last Friday", "2 June 2023"),
        ("last Thursday", "8 June 2023"),
        ("last tuesday night", "6 June 2023"),
        ("next Monday", "12 June 2023"),
        ("next Friday", "16 June 2023"),
        ("this Sunday", "11 June 2023"),
        ("this coming Wednesday", "14 June 2023"),
        ("last May", "May 2023"),
        ("last June", "June 2022"),
        ("next March", "March 2024"),
        ("next September", "September 2023"),
        ("last summer", "summer 2022"),
        ("last spring", "spring 2023"),
        ("this summer", "summer 2023"),
        ("next summer", "summer 2024"),
        ("two weeks from now", "around 23 June 2023"),
        ("the week before last", "two weeks before 9 June 2023"),
    ],
)
def test_a_phrase_is_followed_by_its_date(phrase: str, meaning: str) -> None:
    assert resolve(f"{phrase}, and so on", FRIDAY) == f"{phrase} ({meaning}), and so on"


@pytest.mark.parametrize(
    ("text", "resolved"),
    [
        ("I'm leaving in 2 days.", "I'm leaving in 2 days (11 June 2023)."),
        ("We will meet in a month", "We will meet in a month (July 2023)"),
        ("My course starts in three weeks!", "My course starts in three weeks (around 30 June 2023)!"),
        ("I'll call in a few days.", "I'll call in a few days (a few days after 9 June 2023)."),
        ("yesterday's talk", "yesterday's (8 June 2023) talk"),
        ("We went the week before.", "We went the week before (the week before 9 June 2023)."),
        ("A week or two ago.", "A week or two ago (about a week before 9 June 2023)."),
    ],
)
def test_phrases_in_their_sentence(text: str, resolved: str) -> None:
    assert resolve(text, FRIDAY) == resolved


@pytest.mark.parametrize(
    "text",
    [
        "Wait a second, this is the second time.",
        "I may come. This may work. You may next see it.",
        "They march on and on. The last March on Washington",
        "Over the last year I grew. The past week was hard. During the last month.",
        "the last Friday of the month, last week of September, next to you, last but not least",
        "I haven't seen her in two years. First time in 3 years! I ran it twice in two weeks.",
        "We finished it in two days.",
        "I love the song Yesterday by the Beatles and 'Tomorrow' too",
        "kids in today's world",
        "The day before, we left. The weekend before the wedding.",
        "last Friday, May 5, and yesterday (7 May 2023)",
        "Thirty minutes ago, two hours ago, in a minute",
        "this last time, next door, this one, next winter",
        "I was born in 1990; on 3 May 2021 we met",
        "999 thousand, 9999 years ago",
        "",
    ],
)
def test_other_words_are_left_alone(text: str) -> None:
    assert resolve(text, FRIDAY) == text


def test_an_ambiguous_next_weekday_is_left_alone() -> None:
    monday = datetime(2023, 6, 5, tzinfo=UTC)
    assert resolve("next Friday", monday) == "next Friday"
    assert resolve("next Monday", monday) == "next Monday (12 June 2023)"


def test_the_day_is_the_speakers_own() -> None:
    auckland = timezone(timedelta(hours=12))
    late = datetime(2023, 5, 8, 20, tzinfo=UTC)
    assert resolve("yesterday", late) == "yesterday (7 May 2023)"
    assert resolve("yesterday", late.astimezone(auckland)) == "yesterday (8 May 2023)"


@pytest.mark.parametrize(
    ("day", "meaning"),
    [(7, ""), (8, " (the weekend of 10 June 2023)"), (11, " (the weekend of 10 June 2023)"), (12, "")],
)
def test_this_weekend_is_resolved_when_it_is_near(day: int, meaning: str) -> None:
    moment = datetime(2023, 6, day, tzinfo=UTC)
    assert resolve("this weekend", moment) == f"this weekend{meaning}"


def test_months_cross_years() -> None:
    january = datetime(2024, 1, 31, tzinfo=UTC)
    assert resolve("last month, next month, a month ago", january) == (
        "last month (December 2023), next month (February 2024), a month ago (December 2023)"
    )


def test_impossible_years_are_left_alone() -> None:
    assert resolve("999 years ago", datetime(900, 1, 1, tzinfo=UTC)) == "999 years ago"


def test_spans_are_ordered_disjoint_and_begin_with_the_phrase() -> None:
    text = "Last year and the day before yesterday, I met Ann yesterday; last week too."
    spans = date_spans(text, FRIDAY)
    assert [text[span.start : span.end] for span in spans] == [
        "Last year",
        "the day before yesterday",
        "yesterday",
        "last week",
    ]
    assert all(span.replacement.startswith(text[span.start : span.end]) for span in spans)


WORDS = [
    *("yesterday", "last", "next", "this", "week", "Friday", "May", "summer", "two", "a", "few", "days", "weeks"),
    *("ago", "in", "the", ",", ".", "(", ")", "'", "will", "3", "of"),
]


@given(
    st.lists(st.sampled_from(WORDS), max_size=14).map(" ".join),
    st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2100, 1, 1), timezones=st.just(UTC)),
)
def test_resolving_twice_changes_nothing(text: str, moment: datetime) -> None:
    once = resolve(text, moment)
    assert resolve(once, moment) == once

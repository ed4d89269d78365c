"""What a question says about who and when."""

from __future__ import annotations

import pytest

from lightmem_engine.long_term.query import DateMention, find_dates, read

SPEAKERS = ["user", "assistant", "Caroline", "Melanie", "Will", "Ann Lee", "Ann", "Zoë"]


@pytest.mark.parametrize(
    ("text", "named", "bare"),
    [
        ("When did Caroline go to Rome?", {"caroline"}, "When did go to Rome?"),
        ("What is Caroline's job?", {"caroline"}, "What is job?"),
        ("what is caroline’s job?", {"caroline"}, "what is job?"),
        ("Did Melanie and Caroline meet?", {"caroline", "melanie"}, "Did and meet?"),
        ("When will it rain?", set(), "When will it rain?"),
        ("What does Will like?", {"will"}, "What does like?"),
        ("Where does Ann Lee live?", {"ann lee"}, "Where does live?"),
        ("Where does Ann live?", {"ann"}, "Where does live?"),
        ("Is Zoë here?", {"zoë"}, "Is here?"),
        ("What did the assistant say to the user?", set(), "What did the assistant say to the user?"),
        ("Caroline?", {"caroline"}, "Caroline?"),
        ("Carolines friends", set(), "Carolines friends"),
    ],
)
def test_speakers(text: str, named: set[str], bare: str) -> None:
    question = read(text, SPEAKERS)
    assert question.speakers == named
    assert question.bare == bare


def test_names_stay_in_the_terms() -> None:
    assert read("When did Caroline go to Rome?", SPEAKERS).terms == ("carolin", "go", "rome")


@pytest.mark.parametrize(
    ("text", "dates"),
    [
        ("on 8 May 2023", [(2023, 5, 8)]),
        ("on the 8th of May, 2023", [(2023, 5, 8)]),
        ("on May 8th", [(None, 5, 8)]),
        ("on Sept. 8, 2023", [(2023, 9, 8)]),
        ("on 2023-05-08", [(2023, 5, 8)]),
        ("in May 2023", [(2023, 5, None)]),
        ("in May", [(None, 5, None)]),
        ("in october", [(None, 10, None)]),
        ("What happened in 2022 and in June?", [(2022, None, None), (None, 6, None)]),
        ("from July to August 2022", [(None, 7, None), (2022, 8, None)]),
        ("between January 3 and 5 March 2021", [(None, 1, 3), (2021, 3, 5)]),
        ("the december trip", [(None, 12, None)]),
        ("may I ask", []),
        ("May I ask", []),
        ("a march in the city", []),
        ("she will march", []),
        ("room 2023b, 1,999 steps, 20234", []),
        ("on 45 May 2023", [(2023, 5, None)]),
        ("2023-13-01", []),
    ],
)
def test_dates(text: str, dates: list[tuple[int | None, int | None, int | None]]) -> None:
    assert find_dates(text) == tuple(DateMention(*date) for date in dates)


@pytest.mark.parametrize(
    ("text", "asks"),
    [
        ("What did you recommend for my trip?", True),
        ("Which book had you mentioned?", True),
        ("What was your advice on tea?", True),
        ("How would you suggest I proceed?", False),
        ("Can you list my trips?", False),
        ("What did I say about you?", False),
    ],
)
def test_asking_for_the_assistants_side(text: str, asks: bool) -> None:
    assert read(text, SPEAKERS).asks_assistant is asks

"""Whom a sentence is about."""

import pytest

from lightmem_engine.claims import plain
from lightmem_engine.people import subject


@pytest.mark.parametrize(
    ("text", "who"),
    [
        ("I went to Rome with my sister", "i"),
        ("We live in Rome.", "i"),
        ("My sister went to Rome with me", "sister"),
        ("Anna's sister lives in Rome", "anna's sister"),
        ("Anna’s car is red", "anna"),
        ("The book my uncle likes best is Emma", "uncle"),
        ("My dog's name is Rex", "i"),
        ("My boss cannot eat nuts", "boss"),
        ("My doctor is called Kim", "i"),
        ("Anna went to the opera", "anna"),
        ("Anna cannot stand rain", "anna"),
        ("Someone gave Anna a lamp", None),
        ("Went to Rome with Anna", None),
        ("The weather was nice", None),
        ("The train's late", None),
        ("It's raining", None),
        ("", None),
    ],
)
def test_the_subject_of_a_sentence(text: str, who: str | None) -> None:
    assert subject(plain(text)) == who

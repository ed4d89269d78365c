"""What entries speak of, by rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.mentions import MAX_EDGES, MENTIONS, Edge, edges_of, key, names_in


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("I met Harry Potter and Ann in New York.", ["harry potter", "ann", "new york"]),
        ("Then we watched Lord of the Rings.", ["lord of the rings"]),
        ("Zurich is nice. Everybody likes it.", []),  # a sentence may begin with any word
        ("We saw it on Monday in May, and I'm glad.", []),
        ("That is Ann's dog Rex.", ["ann", "rex"]),
        ("When Bob came, Yesterday was over.", ["bob"]),
        ("nothing here", []),
    ],
)
def test_names_are_capitalised_runs(text: str, names: list[str]) -> None:
    assert names_in(text) == names


def test_a_statement_becomes_a_relation() -> None:
    assert edges_of("Tom", "I live in Bergen.", {}) == (Edge("tom", "home", "bergen"), Edge("tom", MENTIONS, "bergen"))
    assert Edge("tom", "sister", "anna lee") in edges_of("Tom", "My sister is called Anna Lee.", {})
    assert Edge("maria", "employer", "initech") in edges_of("Tom", "Maria works at Initech.", {})


def test_what_holds_no_longer_is_no_relation() -> None:
    assert all(edge.relation == MENTIONS for edge in edges_of("Tom", "I no longer live in Bergen.", {}))


def test_what_a_model_found_comes_first() -> None:
    said = {"subject": "Ann", "relation": "Sister  of", "object": "Bob's", "entities": ["Oslo", 3]}
    assert edges_of("Ann", "no names", said) == (Edge("ann", "sister of", "bob"), Edge("ann", MENTIONS, "oslo"))


@pytest.mark.parametrize(
    "said", [{"subject": 1, "relation": "r", "object": "o"}, {"entities": "Oslo"}, {"subject": "x"}]
)
def test_metadata_of_another_shape_says_nothing(said: dict[str, object]) -> None:
    assert edges_of("Ann", "no names", said) == ()


def test_nobody_is_related_to_himself() -> None:
    assert edges_of("Ann", "It was for Ann.", {}) == ()


@given(st.text(max_size=400), st.text(max_size=20))
def test_any_text_gives_few_whole_edges(text: str, speaker: str) -> None:
    edges = edges_of(speaker, text, {})
    assert len(edges) <= MAX_EDGES
    assert all(edge.subject and edge.relation and edge.object for edge in edges)
    assert all(key(name) == name for name in names_in(text))

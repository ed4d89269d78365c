"""What rules decide, and above all what they leave alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.sleep import rules
from tests.sleep.note import decide, fact, note


def _short(*texts: str) -> list[tuple[str, str, str | None]]:
    notes = [note(number, text) for number, text in enumerate(texts)]
    return [(decision.target, decision.action, decision.by) for decision in decide(*notes)]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("I live in Paris.", "Actually, I live in Rome."),
        ("My home is in Paris.", "News: I moved to Rome now."),
        ("Hi there! I live in Paris.", "By the way, my home is in Rome now. I need a coffee."),
        ("My dog is called Rex.", "Correction: my dog is named Max."),
        ("My exam is on 4 May 2023.", "Update: my exam is on 6 May 2023."),
        ("I am allergic to nuts.", "I was wrong, I am allergic to milk."),
        ("I live in Paris.", "I no longer live in Paris."),
    ],
)
def test_a_correction_supersedes(older: str, newer: str) -> None:
    assert _short(older, newer) == [("e0", "supersede", "e1")]


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("I live in Paris.", "I live in Rome."),  # no word of change
        ("I live in Paris.", "Actually, my sister lives in Rome."),  # somebody else
        ("My dog is called Rex.", "Actually, my cat is called Max."),  # something else
        ("I am allergic to nuts.", "Update: I am allergic to milk."),  # things add up
        ("I live in Paris. I love cats.", "Actually, I live in Rome."),  # more than one thing is said
        ("My dog is called Rex.", "My dog is sick now."),  # another kind of value
        ("Where do I live?", "Actually, I live in Rome."),
        ("I live in Paris.", "Do I live in Rome now?"),
        ("Actually, I live in Rome.", "I live in Paris."),
    ],
)
def test_what_is_not_plainly_corrected_stays(older: str, newer: str) -> None:
    assert _short(older, newer) == []


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        ("My dog is called Rex.", "my dog is called REX!"),
        ("I live in Paris.", "My home is in Paris."),
    ],
)
def test_the_same_again_is_a_duplicate(older: str, newer: str) -> None:
    assert _short(older, newer) == [("e0", "duplicate", "e1")]


def test_the_first_correction_decides_and_each_is_decided_once() -> None:
    told = ("I live in Paris.", "Actually, I live in Rome.", "Actually, I live in Oslo.")
    assert _short(*told) == [("e0", "supersede", "e1"), ("e1", "supersede", "e2")]


def test_another_speaker_and_one_message_correct_nothing() -> None:
    older, newer = note(0, "I live in Paris."), note(1, "Actually, I live in Rome.")
    assert decide(older, note(1, newer.words, speaker="Tom")) == []
    assert decide(older, note(1, newer.words, place=(0, 20), messages=frozenset((0,)))) == []
    said = [note(n, text, role="assistant", speaker="assistant") for n, text in enumerate((older.words, newer.words))]
    assert decide(*said) == []


def test_with_a_model_at_hand_rules_find_duplicates_only() -> None:
    notes = [note(0, "I live in Paris."), note(1, "Actually, I live in Rome."), note(2, "actually I live in Rome")]
    assert [d.action for d in decide(*notes, may_supersede=False)] == ["duplicate"]


def test_what_is_known_or_not_fresh_is_not_looked_at() -> None:
    notes = [note(0, "I live in Paris."), note(1, "Actually, I live in Rome.")]
    assert decide(*notes, fresh=[]) == []
    assert decide(*notes, known=lambda target, source: (target.id, source.id) == ("e0", "e1")) == []
    assert len(decide(*notes, fresh=["e0"])) == 1


def test_what_claims_something_of_the_same_thing_is_related() -> None:
    told = ("I live in Paris.", "My dog is called Rex.", "My home is in Oslo.", "I moved to Rome.", "Lovely day!")
    readings = [rules.read(note(number, text)) for number, text in enumerate(told)]
    assert set(rules.related(readings, 5)) == {(0, 2), (0, 3), (2, 3)}
    assert set(rules.related(readings, 1)) == {(0, 2), (2, 3)}


def test_which_pairs_a_model_is_asked_about() -> None:
    def asked(older: str, newer: str) -> bool:
        return rules.matters(rules.read(fact(0, older)), rules.read(fact(1, newer)))

    assert asked("Ann's dog is called Rex.", "Ann's dog Rex is a beagle.")
    assert not asked("Ann's dog is called Rex.", "The tax office closes early.")
    assert not asked("Ann's dog is called Rex.", "What is Ann's dog called?")
    assert not asked("Thanks!", "Thanks a lot!")


@given(
    st.lists(
        st.sampled_from(["I live in Paris.", "Now I live in Rome.", "Rex!", "rex", "Ok?", "", "I live"]), max_size=8
    )
)
def test_decisions_are_about_an_older_and_a_newer_entry(texts: list[str]) -> None:
    decisions = decide(*(note(number, text) for number, text in enumerate(texts)))
    targets = [decision.target for decision in decisions]
    assert targets == sorted(set(targets))
    for decision in decisions:
        assert decision.by is not None
        assert decision.by > decision.target
        assert decision.sources == (decision.by,)


@pytest.mark.parametrize(
    ("older", "newer", "is_apart"),
    [
        ("My sister was at the opera.", "I was at the opera.", True),
        ("I live in Rome.", "My job is nurse.", True),
        ("I live in Rome.", "I moved to Bonn.", False),
        ("I live in Rome. The whole week was wet.", "My sister moved to Bonn.", False),
        ("I live in Rome.", "The street where Anna lives is Elm Street.", True),
        ("My sister lives in Rome.", "The street where she lives is Elm Street.", False),
        ("My sister hates rain.", "My sister cannot stand snow.", False),
        ("The opera in Rome was lovely.", "My sister moved to Bonn.", False),
    ],
)
def test_what_is_about_somebody_or_something_else(older: str, newer: str, is_apart: bool) -> None:
    target, source = rules.read(note(0, older)), rules.read(note(1, newer))
    assert rules.apart(target, source) is is_apart

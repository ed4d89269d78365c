"""What sentences claim."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.claims import plain, sentences


@pytest.mark.parametrize(
    ("text", "holder", "attribute", "value", "force"),
    [
        ("I live in Paris.", "i", "home", "paris", 0),
        ("My home is in Paris.", "i", "home", "paris", 0),
        ("Actually, I live in Rome.", "i", "home", "rome", 2),
        ("I now live in Rome", "i", "home", "rome", 1),
        ("I moved to Oslo.", "i", "home", "oslo", 1),
        ("My sister lives in Rome City now.", "sister", "home", "rome city", 1),
        ("My sister's home is in Rome.", "sister", "home", "rome", 0),
        ("Vessa works for Acme Labs.", "vessa", "employer", "acme labs", 0),
        ("My dog is called Rex.", "i", "dog", "rex", 0),
        ("The name of my dog is Rex.", "i", "dog", "rex", 0),
        ("Things changed, my yoga class is at 7:30 now.", "i", "yoga class", "7:30", 2),
        ("Update: my exam is on 4 May 2023.", "i", "exam", "4 may 2023", 1),
        ("The tea I like best is green.", "i", "favourite tea", "green", 0),
        ("I’ve been told it is so. My favorite tea is green.", "i", "favourite tea", "green", 0),
    ],
)
def test_common_shapes(text: str, holder: str, attribute: str, value: str, force: int) -> None:
    (claim,) = sentences(text)[-1].claims
    assert (claim.holder, claim.attribute, claim.value) == (holder, attribute, value)
    assert sentences(text)[-1].force == force


@pytest.mark.parametrize(
    "text",
    ["Where do I live?", "My dog is sick.", "It is in Paris.", "Thanks!", "We had a lovely time together.", "👍"],
)
def test_other_sentences_claim_nothing(text: str) -> None:
    assert [claim for part in sentences(text) for claim in part.claims] == []


def test_what_holds_no_longer() -> None:
    (claim,) = sentences("I no longer live in Paris.")[0].claims
    assert (claim.attribute, claim.value, claim.is_negated) == ("home", "paris", True)


@pytest.mark.parametrize(
    "text", ["Hi there!", "That is all for now.", "Thanks a lot!", "It has been raining all week."]
)
def test_what_says_nothing_is_idle(text: str) -> None:
    assert all(part.is_idle for part in sentences(text))


@pytest.mark.parametrize(
    "text", ["I love cats.", "That is my brother Tom.", "This costs 40 euros.", "Please call me Al."]
)
def test_what_says_something_is_not(text: str) -> None:
    assert not any(part.is_idle for part in sentences(text))


@given(st.text(max_size=200))
def test_any_text_can_be_read(text: str) -> None:
    for part in sentences(text):
        assert len(part.words) <= len(plain(text))

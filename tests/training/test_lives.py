"""People and what is said of them read as English, whoever speaks."""

import random
import re

import pytest

from lightmem_engine.training.lives import USER, Key, Person, Teller
from lightmem_engine.training.phrases import ATTRIBUTES, Attribute
from lightmem_engine.training.values import Values

LEFT_OVER = re.compile(r"[{}\[\]|]")
EVERY = [Key(Person(USER), attribute, attribute.nouns[0] if attribute.nouns else "") for attribute in ATTRIBUTES]
HOME = next(attribute for attribute in ATTRIBUTES if attribute.topic == "home")


def teller(seed: int = 1, noise: float = 1.0) -> Teller:
    rng = random.Random(seed)
    return Teller(rng, Values(rng, "train"), noise)


@pytest.mark.parametrize("key", EVERY, ids=lambda key: f"{key.attribute.topic} {key.attribute.say[0]}")
def test_every_phrase_is_filled_and_names_its_value(key: Key) -> None:
    for speaker in (USER, None, "Vessa"):
        for form in range(len(key.attribute.say)):
            said = key.statement("Tolmira", speaker, form, "on Tolmira")
            assert not LEFT_OVER.search(said)
            assert "Tolmira" in said
    for form in range(len(key.attribute.ask)):
        asked = key.question(USER, form)
        assert not LEFT_OVER.search(asked)
        assert asked.endswith("?")


@pytest.mark.parametrize(
    ("owner", "relation", "speaker", "said"),
    [
        (USER, "", USER, "I live in Tolmira"),
        (USER, "sister", USER, "my sister lives in Tolmira"),
        (USER, "sister", None, "the user's sister lives in Tolmira"),
        ("Vessa", "", "Vessa", "I live in Tolmira"),
        ("Vessa", "", USER, "Vessa lives in Tolmira"),
        ("Vessa", "son", USER, "Vessa's son lives in Tolmira"),
    ],
)
def test_who_speaks_decides_the_person(owner: str, relation: str, speaker: str | None, said: str) -> None:
    assert Key(Person(owner, relation), HOME).statement("Tolmira", speaker) == said


@pytest.mark.parametrize(
    ("owner", "relation", "said"),
    [
        (USER, "", "Your home: Tolmira."),
        (USER, "sister", "Your sister's home: Tolmira."),
        ("Vessa", "", "Vessa's home: Tolmira."),
    ],
)
def test_an_answer_speaks_to_the_user(owner: str, relation: str, said: str) -> None:
    assert Key(Person(owner, relation), HOME).answer("Tolmira.") == said


def test_the_value_never_comes_before_its_topic() -> None:
    opens = [form for attribute in ATTRIBUTES for form in attribute.say if form.startswith("{v}")]
    assert opens == []


def test_keys_are_distinct_and_share_attributes() -> None:
    some = teller(3)
    keys = some.keys(some.people(USER, 4), 12)
    assert len(set(keys)) == len(keys) == 12
    attributes: set[Attribute] = {key.attribute for key in keys}
    assert len(attributes) < len(keys)


def test_days_are_distinct_and_ascending() -> None:
    days = teller().days(8)
    assert days == sorted(set(days))

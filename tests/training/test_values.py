"""Values are open, seeded, and parted between training and exam."""

import random
from datetime import date
from typing import get_args

import pytest

from lightmem_engine.training.values import Kind, Split, Values, split_of

KINDS: tuple[Kind, ...] = get_args(Kind)


@pytest.mark.parametrize("split", get_args(Split))
@pytest.mark.parametrize("kind", KINDS)
def test_every_draw_belongs_to_its_split(kind: Kind, split: Split) -> None:
    values = Values(random.Random(1), split)
    drawn = [values.draw(kind, date(2023, 5, 8)) for _ in range(200)]
    assert {split_of(value) for value in drawn} == {split}


def test_case_does_not_move_a_value_to_the_other_split() -> None:
    assert all(split_of(word) == split_of(word.upper()) for word in ("vessa", "tolmira", "karoo", "quint"))


@pytest.mark.parametrize("kind", ["name", "place", "company", "thing", "title", "code"])
def test_vocabularies_are_open(kind: Kind) -> None:
    values = Values(random.Random(2), "train")
    assert len({values.draw(kind) for _ in range(500)}) > 450


def test_equal_seeds_draw_equal_values() -> None:
    one, two = (Values(random.Random(3), "train") for _ in range(2))
    assert [one.draw(kind) for kind in KINDS] == [two.draw(kind) for kind in KINDS]


def test_a_recent_day_is_near_the_day_on_which_it_is_told() -> None:
    values = Values(random.Random(4), "train")
    drawn = [values.draw("recent", date(2023, 5, 8)) for _ in range(100)]
    assert {value.split(" ", 1)[1] for value in drawn} <= {"April 2023", "May 2023"}

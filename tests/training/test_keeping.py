"""What the examples show of a remembered turn is what the engine would keep of it."""

from __future__ import annotations

import random
from datetime import UTC, datetime

from lightmem_engine.training.keeping import Said, keep

DAY = datetime(2024, 5, 8, 12, tzinfo=UTC)


def kept(text: str, seed: int, *needed: str) -> str:
    return keep(random.Random(seed), [Said(text, needed)], DAY)[0]


def test_names_numbers_and_people_stay_and_most_texts_get_shorter() -> None:
    text = "By the way, my sister Vessa lives in Tolmira and pays $45 for water."
    found = [kept(text, seed) for seed in range(50)]
    assert all({"Vessa", "Tolmira", "sister", "$45"} <= set(one.replace(".", "").split()) for one in found)
    assert all(len(one) < len(text) for one in found)


def test_a_text_that_would_lose_what_is_needed_stays_whole() -> None:
    text = "Well, the tea that I happen to like best is nordko, as you may have heard."
    found = [kept(text, seed, "tea", "nordko") for seed in range(50)]
    assert all("tea" in one and "nordko" in one for one in found)
    assert any(one != text for one in found)


def test_relative_dates_are_resolved() -> None:
    assert all("(7 May 2024)" in kept("I went to the zoo yesterday with everybody.", seed) for seed in range(20))


def test_a_short_text_stays_whole_as_it_does_in_an_engine() -> None:
    text = "My nephew really went to school at Abel & Sons."
    assert {kept(text, seed) for seed in range(50)} == {text}

"""Shorter texts that still read as text."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.sensory.compress import compress
from lightmem_engine.types import Word

EVERYTHING = ("numbers", "names", "people", "negations")


def words_of(text: str) -> list[Word]:
    """Words and marks; the longer a word, the better."""
    return [
        Word(m.start(), m.end(), len(m.group()) if m.group().isalnum() else -1.0)
        for m in re.finditer(r"\w+|[^\w\s]", text)
    ]


def short(text: str, rate: float, protect: tuple[str, ...] = (), names: tuple[str, ...] = ()) -> str:
    return compress([text], [words_of(text)], rate=rate, protect=protect, names=names)[0]


def test_the_best_words_stay_in_order() -> None:
    assert short("we walked to the harbour with grandmother", 3 / 7) == "walked harbour grandmother"


def test_rate_one_and_a_text_without_words_are_left_alone() -> None:
    text = "  Untouched,   really.\n"
    assert compress([text], [words_of(text)], rate=1) == [text]
    assert compress(["\u2063"], [[]], rate=0.1) == ["\u2063"]


def test_spacing_and_marks_read_naturally() -> None:
    text = "I said (quietly, to her): come tomorrow!\nShe nodded."
    assert short(text, 1 - 1e-9) == text
    for percent in range(5, 100, 5):
        kept = short(text, percent / 100)
        assert "  " not in kept
        assert not re.search(r"\s[,.!?)]", kept)
    assert short(text, 3 / 15) == "quietly tomorrow\nnodded"


def test_a_line_break_survives_what_is_dropped_around_it() -> None:
    assert short("alpha it is\nit is omega", 2 / 6) == "alpha\nomega"


@pytest.mark.parametrize(
    "joined",
    [
        "3.5",
        "10:30",
        "1,000",
        "don't",
        "self-care",
        "https://example.com/a?b=1",
        "a_b",
        "$478",
        "€1,299.50",
        "20%",
        "-7",
    ],
)
def test_what_is_written_together_is_never_torn(joined: str) -> None:
    text = f"perhaps {joined} happened yesterday"
    for percent in range(1, 100, 3):
        kept = short(text, percent / 100).split()
        pieces = re.findall(r"\w+", joined)
        assert joined in kept or not set(pieces) & set(kept)


@pytest.mark.parametrize("character", ["x", "-", "$", "7"])
def test_an_endless_run_takes_linear_time(character: str) -> None:
    assert short(character * 400_000, 0.5)


def test_a_missing_space_after_a_sentence_is_not_a_joint() -> None:
    assert short("ended.Tomorrow begins", 1 / 4) == "Tomorrow"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("It cost me 12 dollars altogether", "12"),
        ("We never wandered anywhere", "never"),
        ("They don't wander anywhere", "don't"),
        ("They don’t wander anywhere", "don’t"),
        ("Yesterday my Al wandered", "Al"),
        ("It cost me about $478 altogether", "$478"),
        ("Yesterday my husband wandered", "husband"),
        ("We wandered around the landlord's garden", "landlord's"),
        ("We wandered around the company’s premises", "company’s"),
    ],
)
def test_protected_words_stay_at_any_rate(text: str, kept: str) -> None:
    assert short(text, 0.01, EVERYTHING) == kept


def test_a_capital_at_the_start_of_a_sentence_is_no_name() -> None:
    assert short("So wandered somebody. He wandered\nAs well", 1 / 9, EVERYTHING) == "wandered"
    assert short("Then I wandered and I'm wandering", 1 / 8, EVERYTHING) == "wandering"


def test_a_short_form_of_is_belongs_to_nobody() -> None:
    assert short("It's wandering and who's wandering there", 1 / 9, EVERYTHING) == "wandering"


def test_whose_fact_it_is_survives() -> None:
    """Without its owner a note of somebody else's day would become one of the user's own."""
    for percent in range(1, 100):
        assert "husband's" in short("As of today my husband's marathon is planned", percent / 100, EVERYTHING)


def test_names_of_the_speakers_are_known_in_any_case() -> None:
    assert short("bo wandered; BO's wandering", 0.01, ("names",), ("Bo",)) == "bo BO's"
    assert "bo" not in short("bo wandered", 0.5, (), ("Bo",))


def test_protected_words_count_inside_the_budget_first() -> None:
    assert short("one 22 three 44 excellent magnificent", 3 / 6, EVERYTHING) == "22 44 magnificent"


def test_texts_scored_together_share_one_budget_and_none_is_emptied() -> None:
    texts = ["ok so", "magnificent cathedrals everywhere"]
    kept = compress(texts, [words_of(t) for t in texts], rate=4 / 5)
    assert kept == ["ok", "magnificent cathedrals everywhere"]
    assert all(compress(texts, [words_of(t) for t in texts], rate=0.01))


def test_unspaced_scripts_are_not_given_spaces() -> None:
    text = "我喜欢猫和狗"
    words = [Word(i, i + 1, float(i in (2, 3, 5))) for i in range(6)]
    assert compress([text], [words], rate=0.5) == ["欢猫狗"]


def test_a_score_that_is_no_number_ranks_last() -> None:
    text = "alpha beta"
    assert compress([text], [[Word(0, 5, math.nan), Word(6, 10, -5.0)]], rate=0.5) == ["beta"]


@given(st.text(max_size=80), st.floats(0.01, 1.0), st.booleans())
def test_any_text_at_any_rate(text: str, rate: float, protect: bool) -> None:
    words = words_of(text)
    (kept,) = compress([text], [words], rate=rate, protect=EVERYTHING if protect else ())
    assert kept.strip() or not text.strip()
    found = iter(words_of(text))
    for word in words_of(kept):
        want = kept[word.start : word.end]
        assert any(text[w.start : w.end] == want for w in found), "a word came from nowhere or out of order"
    if not protect:
        longest = max((len(run) for run in text.split()), default=0)
        assert len(words_of(kept)) <= max(round(rate * len(words)), longest)


def test_a_short_statement_is_kept_whole_at_nobodys_cost() -> None:
    texts = ["My nephew works for Abel & Sons.", "we walked to the harbour with grandmother", "!!!"]
    words = [words_of(text) for text in texts]
    assert compress(texts, words, rate=3 / 7, whole_words=6)[:2] == [texts[0], "walked harbour grandmother"]
    assert compress(texts, words, rate=3 / 7, whole_words=5)[0] != texts[0]
    assert compress(texts, words, rate=3 / 7, whole_words=7) == texts


def test_marks_are_not_counted_as_words() -> None:
    text = "Well, yes: 35 kg!"
    assert compress([text], [words_of(text)], rate=0.2, whole_words=4) == [text]

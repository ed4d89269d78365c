import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.short_term.dates import date_spans
from lightmem_engine.short_term.extractive import drafts, merge
from lightmem_engine.types import Source
from tests.short_term.sensed import NOON, segment, sensed


def test_each_piece_becomes_one_entry_with_its_span_and_original_words() -> None:
    text = "I went to Rome yesterday with Bob. It was hot."
    turn = sensed(3, text, pieces=[(0, 34, "went Rome yesterday Bob."), (35, 46, "hot.")])
    first, second = drafts(segment(turn, id=9))
    assert first.text == "Ann: went Rome yesterday (7 May 2023) Bob."
    assert first.sources == (Source("m3", 3, 0, 34),)
    assert (first.kind, first.session, first.speaker, first.role, first.segment) == ("turn", "s", "Ann", "user", 9)
    assert first.event_time == turn.turn.event_time
    assert first.vector is turn.pieces[0].vector
    assert first.metadata == {"n": 3}
    assert (second.text, second.sources) == ("Ann: hot.", (Source("m3", 3, 35, 46),))


def test_both_sides_are_remembered_but_neither_system_nor_tools() -> None:
    turns = [
        sensed(1, "I like tea", speaker="Ann"),
        sensed(2, "Noted", speaker="assistant", role="assistant"),
        sensed(3, "You are a bot", speaker="system", role="system"),
        sensed(4, "{}", speaker="tool", role="tool"),
        sensed(5, "  ", speaker="Ann"),
    ]
    assert [draft.text for draft in drafts(segment(*turns))] == ["Ann: I like tea", "assistant: Noted"]


@pytest.mark.parametrize(
    ("original", "compressed", "expected"),
    [
        # compression dropped half of the phrase, or all of it
        ("We met in Rome last year, I think", "met Rome year think", "met Rome last year (2022) think"),
        ("We met in Rome last year, I think", "met Rome", "met Rome last year (2022)"),
        ("Yesterday I met Bob", "met Bob", "Yesterday (7 May 2023) met Bob"),
        ("Yesterday I met Bob", "Yesterday met Bob", "Yesterday (7 May 2023) met Bob"),
        # the same word elsewhere is told apart by its neighbours
        ("a year of work and last year a prize", "year of work prize", "year of work last year (2022) prize"),
        ("the day before yesterday, it rained", "yesterday, rained", "the day before yesterday (6 May 2023), rained"),
        # punctuation of the original
        ("I left (last week), ok?", "left ok?", "left last week (the week before 8 May 2023) ok?"),
        # nothing was dropped
        ("Rome yesterday!", "Rome yesterday!", "Rome yesterday (7 May 2023)!"),
        # not made of the original's words
        ("I saw Bob yesterday", "a meeting", "a meeting; yesterday (7 May 2023)"),
    ],
)
def test_a_phrase_survives_compression(original: str, compressed: str, expected: str) -> None:
    assert merge(original, compressed, date_spans(original, NOON)) == expected


def test_the_context_of_a_phrase_is_read_across_pieces() -> None:
    turn = sensed(
        1, "I never rested. Over the last year I grew", pieces=[(16, 25, "Over the"), (25, 41, "last year grew")]
    )
    assert [draft.text for draft in drafts(segment(turn))] == ["Ann: Over the", "Ann: last year grew"]


WORDS = ["Rome", "yesterday", "last", "year", "the", "a", ",", ".", "(", "tea", "week", "the day before yesterday"]


@given(st.lists(st.sampled_from(WORDS), min_size=1, max_size=20), st.data())
def test_merging_keeps_every_kept_word_and_every_phrase(words: list[str], data: st.DataObject) -> None:
    original = " ".join(words)
    tokens = re.findall(r"\w+|[^\w\s]", original)
    keep = data.draw(st.lists(st.booleans(), min_size=len(tokens), max_size=len(tokens)))
    compressed = " ".join(token for token, kept in zip(tokens, keep, strict=True) if kept)
    spans = date_spans(original, NOON)
    merged = merge(original, compressed, spans)
    assert merged.count("(7 May 2023)") == sum("(7 May 2023)" in span.replacement for span in spans)
    remaining = iter(re.findall(r"\w+|[^\w\s]", merged))
    assert all(word in remaining for word in re.findall(r"\w+|[^\w\s]", compressed))  # in order
    for span in spans:
        assert span.replacement in merged

"""Stretches that cover a text, each small enough."""

from __future__ import annotations

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.sensory.pieces import split


def cut(text: str, max_words: int) -> list[str]:
    return [text[start:end] for start, end in split(text, max_words)]


def test_a_short_text_is_one_stretch_without_its_margins() -> None:
    assert split("  hello there \n", 10) == [(2, 13)]
    assert split(" \n ", 10) == []


def test_cuts_fall_between_sentences() -> None:
    text = 'One two three. Four five? "Six seven!" Eight nine'
    assert cut(text, 5) == ["One two three. Four five?", '"Six seven!" Eight nine']


def test_a_sentence_too_long_is_cut_between_words() -> None:
    assert cut("a b c d e f g", 3) == ["a b c", "d e f", "g"]


def test_stretches_are_of_similar_size() -> None:
    text = " ".join(f"Word{i} here." for i in range(33))
    sizes = [len(part.split()) for part in cut(text, 60)]
    assert sizes == [34, 32]


def test_inside_a_code_block_cuts_fall_at_ends_of_lines() -> None:
    code = "```\nx = a. b\ny = c. d\nz = e. f\n```"
    assert cut(f"Look here now:\n{code}", 9) == ["Look here now:\n```\nx = a. b", "y = c. d\nz = e. f\n```"]


def test_an_endless_run_is_cut_too() -> None:
    parts = cut("x" * 1000, 10)
    assert "".join(parts) == "x" * 1000
    assert max(map(len, parts)) <= 240


def test_a_script_without_spaces_counts_characters() -> None:
    assert cut("我喜欢猫。你喜欢狗。", 5) == ["我喜欢猫。", "你喜欢狗。"]


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="max_words"):
        split("a", 0)


@given(st.text(alphabet=st.sampled_from("ab .!?\n`我。\u200b"), max_size=200), st.integers(1, 12))
def test_every_visible_character_is_in_exactly_one_stretch(text: str, max_words: int) -> None:
    spans = split(text, max_words)
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))
    covered = {i for start, end in spans for i in range(start, end)}
    assert all(text[i].isspace() for i in range(len(text)) if i not in covered)
    for start, end in spans:
        assert text[start:end] == text[start:end].strip()
        assert len(re.findall(r"[^\s我。]+|[我]", text[start:end])) <= max_words + 2

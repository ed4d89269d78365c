"""Words, stems, terms and the token measure."""

from __future__ import annotations

from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine import text
from lightmem_engine.models import saliency, stub_encoder
from lightmem_engine.models.stub_encoder import StubEmbedder
from tests.reference import load_evalkit

ENGLISHLIKE = st.text("abcdeginlorstyz0123 '.-é好\t\nABS", max_size=80)


@pytest.fixture(scope="session")
def evalkit() -> ModuleType:
    return load_evalkit()


@given(sample=st.one_of(ENGLISHLIKE, st.text(max_size=60)))
def test_equals_the_reference(evalkit: ModuleType, sample: str) -> None:
    assert text.words(sample) == evalkit.words(sample)
    assert text.terms(sample) == evalkit.terms(sample)
    assert text.num_tokens(sample) == evalkit.n_tokens(sample)


@given(word=st.text("abcdeginlorstyz09", max_size=12), suffix=st.sampled_from(["s", "ss", "ies", "ing", "ed", "es"]))
def test_stem_equals_the_reference(evalkit: ModuleType, word: str, suffix: str) -> None:
    assert text.stem(word + suffix) == evalkit.stem(word + suffix)


def test_stopwords_equal_the_reference(evalkit: ModuleType) -> None:
    assert evalkit.STOP == text.STOPWORDS


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("stories", "story"),
        ("classes", "class"),
        ("running", "run"),
        ("hoped", "hop"),
        ("selling", "sell"),
        ("glass", "glass"),
        ("ties", "tie"),
        ("2023", "2023"),
        ("cats", "cat"),
        ("sing", "sing"),
        ("violence", "violenc"),
        ("", ""),
    ],
)
def test_stem(word: str, expected: str) -> None:
    assert text.stem(word) == expected


def test_terms_drop_stop_words_and_keep_order_and_repeats() -> None:
    assert text.terms("The cats did not see the dogs, cats!") == ["cat", "see", "dog", "cat"]


def test_num_tokens_counts_punctuation_singly() -> None:
    assert text.num_tokens("Hi, there... it's 7:30") == 12
    assert text.num_tokens("") == text.num_tokens(" \n") == 0


@given(st.text(st.characters(max_codepoint=127), max_size=80))
def test_search_terms_equal_terms_on_ascii(sample: str) -> None:
    assert text.search_terms(sample) == text.terms(sample)


def test_search_terms_understand_other_scripts() -> None:
    assert text.search_terms("Le café de Zoë") == ["le", "cafe", "de", "zoe"]
    assert text.search_terms("Она любит чай") == ["она", "любит", "чаи"]
    assert text.search_terms("我喜欢猫 and dogs") == ["我", "喜", "欢", "猫", "dog"]


def test_no_cache_of_words_outlives_forgetting() -> None:

    StubEmbedder().encode(["The kanarisecret is told."])
    saliency._terms("kanarisecret")
    caches = (text.stem, saliency._terms, saliency._kind, stub_encoder._direction)
    assert any(cache.cache_info().currsize for cache in caches)
    text.forget_words()
    assert [cache.cache_info().currsize for cache in caches] == [0] * 4

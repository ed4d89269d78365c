"""Word scores from rarity and attention, on the packaged model."""

from __future__ import annotations

import numpy as np
import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.encoder import Encoder
from lightmem_engine.models.packaged import packaged_minilm
from lightmem_engine.models.saliency import SaliencyClassifier
from lightmem_engine.sensory.term_counts import TermCounts
from lightmem_engine.types import Window

TEXT = "Did you know that the greyhound was in Leeds, Melanie?"


@pytest.fixture(scope="module")
def classifier() -> SaliencyClassifier:
    return SaliencyClassifier(Encoder(packaged_minilm()))


def ranked(classifier: SaliencyClassifier, window: Window) -> list[str]:
    (scores,) = classifier.score([window])
    text = window.texts[-1]
    return [text[word.start : word.end] for word in sorted(scores.words[-1], key=lambda word: -word.keep)]


def test_content_before_stop_words_before_marks(classifier: SaliencyClassifier) -> None:
    order = ranked(classifier, Window((TEXT,)))
    assert set(order[:4]) == {"know", "greyhound", "Leeds", "Melanie"}
    assert set(order[-2:]) == {",", "?"}


def test_without_history_the_language_says_what_is_rare(classifier: SaliencyClassifier) -> None:
    order = ranked(classifier, Window(("my good friend likes zymurgy",)))
    assert order[0] == "zymurgy"


def test_with_history_the_user_does(classifier: SaliencyClassifier) -> None:
    counts = TermCounts()
    for i in range(300):
        counts.add(f"more about zymurgy {i}")
    counts.add("my good friend likes zymurgy")
    order = ranked(
        classifier, Window(("my good friend likes zymurgy",), 0, counts.document_frequency, counts.num_documents)
    )
    assert order.index("zymurgy") == 3


def test_every_visible_character_that_is_a_word_is_scored(classifier: SaliencyClassifier) -> None:
    text = "naïve café—日本語 x\u0301 😀 \u200b tail"
    (scores,) = classifier.score([Window((text,))])
    assert [text[w.start : w.end] for w in scores.words[0]] == [
        *("naïve", "café", "—", "日", "本", "語", "x", "\u0301", "😀", "\u200b", "tail")
    ]
    assert np.isfinite([word.keep for word in scores.words[0]]).all()


def test_windows_of_one_call_do_not_disturb_each_other(classifier: SaliencyClassifier) -> None:
    windows = [Window((TEXT, "And then? " * n, "Why")) for n in (1, 9, 40)]
    together = classifier.score(windows)
    for window, scores in zip(windows, together, strict=True):
        (alone,) = classifier.score([window])
        np.testing.assert_allclose(scores.mass, alone.mass, atol=1e-5)
        for own, other in zip(scores.words, alone.words, strict=True):
            np.testing.assert_allclose([w.keep for w in own], [w.keep for w in other], atol=1e-3)


def test_a_turn_looks_back_at_what_it_goes_on_with(classifier: SaliencyClassifier) -> None:
    question = "Which trail should I take up to the lake this weekend?"
    going_on, changing = classifier.score(
        [
            Window((question, "Take the trail along the lake, it is the shorter one this weekend."), 1),
            Window((question, "My invoice from last month has not been paid yet."), 1),
        ]
    )
    assert going_on.words[0] == ()
    assert going_on.mass[1] > changing.mass[1]


def test_text_without_content_and_too_long_windows(classifier: SaliencyClassifier) -> None:
    (scores,) = classifier.score([Window(("... !",))])
    assert len(scores.words[0]) == 4
    with pytest.raises(InvalidInput, match="the model reads 512"):
        classifier.score([Window(("word " * 511,))])
    assert classifier.score([]) == []

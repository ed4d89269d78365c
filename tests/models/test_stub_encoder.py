"""The weight-free stand-ins keep the promises of the real ones."""

from __future__ import annotations

import numpy as np
import pytest

from lightmem_engine.errors import InvalidInput
from lightmem_engine.models.stub_encoder import StubClassifier, StubEmbedder
from lightmem_engine.types import Window


def test_vectors_are_unit_rows_and_shared_words_bring_texts_together() -> None:
    embedder = StubEmbedder(dim=32)
    vectors = embedder.encode(["red fishes swim", "a red fish", "blue mountains", "", "the"])
    assert vectors.shape == (5, 32)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert vectors[0] @ vectors[1] > 0.7 > vectors[0] @ vectors[2]
    assert embedder.encode([]).shape == (0, 32)


def test_the_space_is_stable_across_processes() -> None:
    np.testing.assert_allclose(StubEmbedder(4).encode(["fish"])[0], [-0.7, 0.5, 0.4, 0.3], atol=2)
    assert StubEmbedder(4).name != StubEmbedder(8).name
    assert np.array_equal(StubEmbedder(4).encode(["fish"]), StubEmbedder(4).encode(["fish"]))


def test_words_cover_the_text_and_longer_ones_win() -> None:
    (scores,) = StubClassifier().score([Window(("context here", "go, elephant!"), 1)])
    assert scores.words[0] == ()
    assert [(word.start, word.end) for word in scores.words[1]] == [(0, 2), (2, 3), (4, 12), (12, 13)]
    keeps = [word.keep for word in scores.words[1]]
    assert keeps[2] > keeps[0] > keeps[1] == 0


def test_attention_follows_shared_words() -> None:
    (scores,) = StubClassifier().score([Window(("red fish", "blue fish", "red fish", "nothing"))])
    assert np.isnan(scores.attention[0])
    assert scores.mass[1] == 0.5
    assert scores.attention[2] == pytest.approx(1 / 3)
    assert np.isnan(scores.attention[3])
    assert scores.mass[3] == 0


def test_a_window_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput, match="window 0 has 12 tokens"):
        StubClassifier(max_tokens=11).score([Window(("a " * 10,))])

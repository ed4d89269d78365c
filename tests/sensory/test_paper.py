"""The published boundary rule against an independent transcription of it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightmem_engine.sensory.paper import attention_peaks, paper_boundaries, similarity_dips


def transcription(outer: list[float], similarity: list[float], index: str) -> list[int]:
    """Step by step, as the method is described: coarse peaks, adaptive threshold, proximity, fall back."""
    n = len(outer) + 1
    coarse = [k for k in range(1, n - 2) if outer[k - 1] < outer[k] and outer[k] > outer[k + 1]]
    if index == "paper":
        coarse = [k + 1 for k in coarse]
    if not coarse:
        return []
    threshold = 0.2
    fine: list[int] = []
    while threshold <= 0.5 + 1e-9 and not fine:
        fine = [t + 1 for t in range(len(similarity)) if similarity[t] < threshold]
        threshold += 0.05
    near = [f for f in fine if min(abs(f - c) for c in coarse) <= 3]
    return near or fine


def chain(similarity: list[float]) -> Any:
    """Unit vectors in the plane whose successive cosines are given."""
    angles = np.concatenate([[0.0], np.cumsum(np.arccos(similarity))])
    return np.stack([np.cos(angles), np.sin(angles)], 1)


@pytest.mark.parametrize("index", ["code", "paper"])
@pytest.mark.parametrize("seed", range(150))
def test_equals_the_transcription(index: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    n = int(random.integers(2, 14))
    outer = random.random(n - 1).round(1).tolist()
    similarity = random.uniform(0.1, 0.9, n - 1).tolist()
    found = paper_boundaries(np.array(outer), chain(similarity), index=index)
    assert sorted(found) == transcription(outer, similarity, index)


def test_the_two_conventions_differ_by_one() -> None:
    outer = np.array([0.1, 0.9, 0.1, 0.1])
    assert attention_peaks(outer, index="code") == {1}
    assert attention_peaks(outer, index="paper") == {2}


def test_ends_and_plateaus_are_no_peaks() -> None:
    assert attention_peaks(np.array([0.9, 0.1, 0.1, 0.9]), index="code") == set()
    assert attention_peaks(np.array([0.1, 0.9, 0.9, 0.1]), index="code") == set()
    assert attention_peaks(np.array([0.1, 0.9]), index="code") == set()


def test_missing_attention_counts_as_none() -> None:
    assert attention_peaks(np.array([np.nan, 0.9, np.nan]), index="code") == {1}


def test_the_threshold_rises_until_something_dips() -> None:
    assert similarity_dips(chain([0.9, 0.44, 0.43, 0.46])) == {2, 3}
    assert similarity_dips(chain([0.9, 0.6])) == set()


def test_a_single_turn_has_no_boundary() -> None:
    assert paper_boundaries(np.zeros(0), np.ones((1, 2)), index="code") == set()

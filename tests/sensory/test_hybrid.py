"""The default boundary score on conversations whose topics are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lightmem_engine.sensory import hybrid


def conversation(lengths: list[int], spread: float, seed: int) -> tuple[Any, set[int]]:
    """Unit vectors around one random direction per topic, and where the topics begin."""
    random = np.random.default_rng(seed)
    rows = []
    for length in lengths:
        topic = random.standard_normal(64)
        rows += [topic + spread * random.standard_normal(64) for _ in range(length)]
    return hybrid.unit_rows(np.array(rows)), set(np.cumsum(lengths[:-1]).tolist())


@pytest.mark.parametrize("seed", range(5))
def test_clear_topics_are_found_without_attention(seed: int) -> None:
    vectors, begins = conversation([6, 5, 8, 4, 7], 0.7, seed)
    assert hybrid.hybrid_boundaries(vectors, np.full(len(vectors), np.nan)) == begins


def test_attention_that_stops_looking_back_adds_to_the_score() -> None:
    vectors, _ = conversation([12], 1.5, seed=1)
    mass = np.full(12, 0.4)
    mass[6] = 0.05
    plain = hybrid.gap_scores(vectors, np.full(12, np.nan))
    gain = hybrid.gap_scores(vectors, mass) - plain
    assert int(np.argmax(gain)) == 5  # the gap before unit 6


def test_one_topic_of_near_equal_turns_is_left_whole() -> None:
    vectors, _ = conversation([10], 0.05, seed=2)
    assert len(hybrid.hybrid_boundaries(vectors, np.full(10, 0.5))) <= 2


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7])
def test_any_length_has_one_score_a_gap(n: int) -> None:
    vectors, _ = conversation([n], 1.0, seed=3)
    assert hybrid.hybrid_boundaries(vectors, np.full(n, 0.3)) <= set(range(1, max(1, n)))
    if n > 1:
        assert hybrid.gap_scores(vectors, np.full(n, 0.3)).shape == (n - 1,)
        assert np.isfinite(hybrid.gap_scores(vectors, np.full(n, 0.3))).all()


@pytest.mark.parametrize("n", [2, 3, 5, 9])
def test_bridges_equal_the_plain_loop(n: int) -> None:
    vectors, _ = conversation([n], 1.0, seed=4)
    wanted = [
        max(vectors[a] @ vectors[b] for a in range(max(0, g - 3), g) for b in range(g, min(n, g + 3)))
        for g in range(1, n)
    ]
    np.testing.assert_allclose(hybrid._bridges(vectors), wanted, atol=1e-12)


def test_depth_is_the_climb_to_both_sides() -> None:
    np.testing.assert_allclose(hybrid._depth(np.array([0.5, 0.9, 0.2, 0.4, 0.4, 0.1])), [0.4, 0, 0.9, 0, 0, 0.3])

"""The queue against plain loops, and against the published construction and scan, transcribed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.bench_queue import KEEP, published_queues, published_scan
from lightmem_engine.sleep.queue import Queue, Rows, newer_sources, published_sources
from lightmem_engine.types import Floats, Vectors
from lightmem_kernels import similarity_topk


def topk(
    vectors: Vectors, order: Rows, group: Rows, k: int, *, direction: str, queries: Rows | None
) -> tuple[Floats, Rows]:
    scores, rows = similarity_topk(
        torch.from_numpy(vectors),
        torch.from_numpy(order),
        torch.from_numpy(group),
        k,
        direction=direction,  # type: ignore[arg-type]
        queries=None if queries is None else torch.from_numpy(queries),
    )
    return scores.numpy(), rows.numpy()


def memories(seed: int, count: int, num_users: int = 1) -> tuple[Vectors, Rows, Rows]:
    """Vectors in tight clusters, orders with equal times, users mixed."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, count // 4), 16))
    vectors = centres[rng.integers(len(centres), size=count)] + 0.15 * rng.standard_normal((count, 16))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    order = np.stack([rng.integers(0, count // 2 + 1, count), np.arange(count)], axis=1)
    return vectors, order, rng.integers(num_users, size=count)


def loops(vectors: Vectors, order: Rows, group: Rows, k: int, threshold: float) -> dict[int, set[int]]:
    """The definition, entry by entry."""
    found = {}
    for i in range(len(vectors)):
        newer = [j for j in range(len(vectors)) if group[j] == group[i] and tuple(order[j]) > tuple(order[i])]
        scored = sorted(((float(vectors[i] @ vectors[j]), j) for j in newer), reverse=True)[:k]
        sources = {j for score, j in scored if score >= threshold}
        if sources:
            found[i] = sources
    return found


def as_sets(queue: Queue) -> dict[int, set[int]]:
    return {target: set(sources) for target, sources in queue}


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 40), st.integers(1, 3), st.integers(1, 6))
def test_sources_are_the_most_similar_newer_entries_of_the_same_user(
    seed: int, count: int, num_users: int, k: int
) -> None:
    vectors, order, group = memories(seed, count, num_users)
    queue = newer_sources(topk, vectors, order, group, k=k, threshold=0.8)
    assert as_sets(queue) == loops(vectors, order, group, k, 0.8)


def test_no_two_entries_are_each_others_source() -> None:
    vectors, order, group = memories(3, 200)
    pairs = {(target, source) for target, sources in newer_sources(topk, vectors, order, group, k=10, threshold=0.5)
             for source in sources}  # fmt: skip
    assert pairs
    assert not pairs & {(source, target) for target, source in pairs}


def test_fresh_rows_bring_exactly_the_pairs_they_are_part_of() -> None:
    vectors, order, group = memories(4, 120, num_users=2)
    fresh = np.array([5, 60, 119])
    whole = as_sets(newer_sources(topk, vectors, order, group, k=120, threshold=0.8))
    expected = {(t, s) for t, sources in whole.items() for s in sources if t in fresh or s in fresh}
    found = as_sets(newer_sources(topk, vectors, order, group, k=120, threshold=0.8, fresh=fresh))
    assert {(t, s) for t, sources in found.items() for s in sources} == expected


@pytest.mark.parametrize("seed", range(4))
def test_the_published_scan_finds_the_same_sources(seed: int) -> None:
    vectors, order, group = memories(seed, 150)
    order[:, 0] = np.random.default_rng(seed).permutation(150)  # distinct times: the published rule lets equals meet
    queues = published_queues(vectors, order[:, 0])
    scores, rows = topk(vectors, order, group, KEEP, direction="older", queries=None)
    ours = as_sets(published_sources(scores, rows, threshold=0.8))
    assert ours
    assert ours == published_scan(queues, 0.8)


def test_nothing_to_do_is_an_empty_queue() -> None:
    vectors, order, group = memories(0, 0)
    assert len(newer_sources(topk, vectors.reshape(0, 16), order, group, k=3, threshold=0.8)) == 0

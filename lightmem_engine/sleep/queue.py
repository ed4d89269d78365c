"""The update queue: for each entry, the newer entries that may change it. Pure numpy over an injected search.

An entry is a row. Rows are compared by (event time, place in the log), which is total, so of two entries exactly one
may be the other's source. All users are searched at once; rows of different groups never meet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lightmem_engine.types import Floats, Vectors

Rows = npt.NDArray[np.int64]


class TopK(Protocol):
    """`lightmem_kernels.similarity_topk` over numpy arrays."""

    def __call__(
        self, vectors: Vectors, order: Rows, group: Rows, k: int, *, direction: str, queries: Rows | None
    ) -> tuple[Floats, Rows]:
        """Scores float32 [Q, k], descending, and rows int64 [Q, k]; -inf and -1 where fewer than k qualify."""
        ...


@dataclass(frozen=True, slots=True)
class Queue:
    """Targets and their sources.

    targets: int64 [n], ascending rows with a source.   starts: int64 [n + 1]; the sources of targets[i] are
    sources[starts[i]:starts[i + 1]], the most similar first (ties: the lower row), with their cosines in scores.
    """

    targets: Rows
    starts: Rows
    sources: Rows
    scores: Floats

    def __len__(self) -> int:
        """Targets."""
        return len(self.targets)

    def __iter__(self) -> Iterator[tuple[int, list[int]]]:
        """Each target with its sources."""
        for i, target in enumerate(self.targets.tolist()):
            yield target, self.sources[self.starts[i] : self.starts[i + 1]].tolist()


def newer_sources(
    topk: TopK, vectors: Vectors, order: Rows, group: Rows, *, k: int, threshold: float, fresh: Rows | None = None
) -> Queue:
    """The `k` most similar newer entries of each entry, at a cosine of at least `threshold` (LightMem, equation of Q).

    vectors: float32 [N, d], unit rows.   order: int64 [N, 2].   group: int64 [N].
    fresh: rows that came or changed since the last time; only pairs with one of them are returned, at the cost of a
    search for these rows alone. A fresh source is then found for its own `k` most similar older entries and no more.
    """
    if fresh is None:
        scores, sources = topk(vectors, order, group, k, direction="newer", queries=None)
        targets = np.repeat(np.arange(len(vectors)), k)
        return _queue(targets, sources.ravel(), scores.ravel(), threshold, k)
    scores, sources = topk(vectors, order, group, k, direction="newer", queries=fresh)
    older_scores, targets = topk(vectors, order, group, k, direction="older", queries=fresh)
    return _queue(
        np.concatenate([np.repeat(fresh, k), targets.ravel()]),
        np.concatenate([sources.ravel(), np.repeat(fresh, k)]),
        np.concatenate([scores.ravel(), older_scores.ravel()]),
        threshold,
        k,
    )


def published_sources(scores: Floats, rows: Rows, *, threshold: float = 0.9) -> Queue:
    """The sources as the published code finds them, where each entry queues its most similar older ones and an entry's
    sources are all that have queued it, however many.

    scores: float32 [N, keep], rows: int64 [N, keep], as `TopK` with direction "older" gives them (published keep: 10).
    """
    sources = np.repeat(np.arange(len(rows)), rows.shape[1])
    return _queue(rows.ravel(), sources, scores.ravel(), threshold, None)


def _queue(targets: Rows, sources: Rows, scores: Floats, threshold: float, k: int | None) -> Queue:
    """Pairs in order of target and score, each once, at most `k` a target."""
    is_pair = (targets >= 0) & (sources >= 0) & (scores >= threshold)
    targets, sources, scores = targets[is_pair], sources[is_pair], scores[is_pair]
    by_score = np.lexsort((sources, -scores, targets))
    targets, sources, scores = targets[by_score], sources[by_score], scores[by_score]
    pairs = np.stack([targets, sources], axis=1)
    first = np.sort(np.unique(pairs, axis=0, return_index=True)[1])
    targets, sources, scores = targets[first], sources[first], scores[first]
    found, begins, counts = np.unique(targets, return_index=True, return_counts=True)
    if k is not None and len(counts) and int(counts.max()) > k:
        place = np.arange(len(targets)) - np.repeat(begins, counts)
        return _queue(targets[place < k], sources[place < k], scores[place < k], threshold, None)
    return Queue(found, np.append(begins, len(targets)), sources, scores)

"""The update queue against the published one: construction by a search per entry, then a scan of all for each.

    python -m bench.bench_queue [--entries 500,1000,4000,100000] [--device cpu]

Rows in bench/results/queue.csv, seconds. Both sides get the same vectors, and must find the same sources; the published
side runs up to 4,000 entries only, as its scan grows with the square of them. `construction` is published: one search
per entry, here over a matrix instead of a vector database, which makes it faster than it was.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bench.harness import Table, parser_of, table_of
from lightmem_engine.sleep.queue import Rows, newer_sources, published_sources
from lightmem_engine.types import Floats, Vectors
from lightmem_kernels import similarity_topk

DIM = 384
TOP_K, KEEP = 20, 10  # the published numbers
THRESHOLD = 0.8
MOST_PUBLISHED = 4000

Queues = list[list[dict[str, Any]]]


def published_queues(vectors: Vectors, times: Rows) -> Queues:
    """Each entry's queue, as published: the 20 nearest of all not later, itself among them; of the others, 10."""
    queues: Queues = []
    for i in range(len(vectors)):
        allowed = np.flatnonzero(times <= times[i])
        scores = vectors[allowed] @ vectors[i]
        best = np.argsort(-scores, kind="stable")[:TOP_K]
        others = [place for place in best if allowed[place] != i][:KEEP]
        queues.append([{"id": name(int(allowed[place])), "score": float(scores[place])} for place in others])
    return queues


def published_scan(queues: Queues, threshold: float) -> dict[int, set[int]]:
    """The sources of each entry, as published: every entry is asked whether its queue names the target."""
    found: dict[int, set[int]] = {}
    for target in range(len(queues)):
        wanted = name(target)
        sources = set()
        for other, queue in enumerate(queues):
            for queued in queue:
                if queued["id"] == wanted and queued["score"] >= threshold:
                    sources.add(other)
                    break
        if sources:
            found[target] = sources
    return found


def name(row: int) -> str:
    """An id as long as those of a vector database."""
    return str(uuid.UUID(int=row))


def clustered(count: int) -> tuple[Vectors, Rows, Rows]:
    """Vectors of which four at a time are about the same thing; distinct times; one user."""
    rng = np.random.default_rng(count)
    centres = rng.standard_normal((max(1, count // 4), DIM)).astype(np.float32)
    vectors = centres[rng.integers(len(centres), size=count)]
    vectors += 0.3 * rng.standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    order = np.stack([rng.permutation(count), np.arange(count)], axis=1)
    return vectors, order, np.zeros(count, np.int64)


def run(sizes: Sequence[int], device: str, table: Table) -> None:
    """Record all rows; a difference between the sides ends the bench."""

    def topk(
        vectors: Vectors, order: Rows, group: Rows, k: int, *, direction: str, queries: Rows | None
    ) -> tuple[Floats, Rows]:
        x, places, users = (torch.from_numpy(array).to(device) for array in (vectors, order, group))
        asked = None if queries is None else torch.from_numpy(queries).to(device)
        scores, rows = similarity_topk(x, places, users, k, direction=direction, queries=asked)  # type: ignore[arg-type]
        return scores.cpu().numpy(), rows.cpu().numpy()

    for size in sizes:
        vectors, order, group = clustered(size)
        case: dict[str, object] = {"entries": size, "device": device}
        started = time.perf_counter()
        scores, rows = topk(vectors, order, group, KEEP, direction="older", queries=None)
        searched = time.perf_counter()
        ours = published_sources(scores, rows, threshold=THRESHOLD)
        our_scan = time.perf_counter() - searched
        our_search = searched - started
        table.value(case, "construction", "s", our_search)
        table.value(case, "sources", "s", our_scan)
        started = time.perf_counter()
        newer_sources(topk, vectors, order, group, k=KEEP, threshold=THRESHOLD)
        table.value(case, "newer sources, construction included", "s", time.perf_counter() - started)
        if size > MOST_PUBLISHED:
            continue
        started = time.perf_counter()
        queues = published_queues(vectors, order[:, 0])
        built = time.perf_counter()
        theirs = published_scan(queues, THRESHOLD)
        their_scan = time.perf_counter() - built
        table.value(case, "published construction", "s", built - started)
        table.value(case, "published sources", "s", their_scan)
        if theirs != {target: set(sources) for target, sources in ours}:
            raise SystemExit(f"the sides differ at {size} entries")
        table.value(case, "published sources / sources", "ratio", their_scan / our_scan)
        whole = (built - started + their_scan) / (our_search + our_scan)
        table.value(case, "published whole / whole", "ratio", whole)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and keep the rows."""
    parser = parser_of(__doc__)
    parser.add_argument("--entries", default="500,1000,4000,100000")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    table = table_of("queue", args)
    run([int(size) for size in args.entries.split(",")], args.device, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

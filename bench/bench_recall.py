"""What each term of the ranking contributes, on raw turns and without any language model.

    python -m bench.bench_recall locomo FILE [beam FILE ...]

Turns are cut into stretches of at most 120 words and kept as they are, so the figures judge search alone; budgets are
counted on dated raw lines, which makes R@B lower than that of compressed memory. One row per dataset and variant in
bench/results/recall.csv. The files are for measuring only: no setting may be chosen per set.
"""

from __future__ import annotations

import asyncio
import csv
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench.bench_search import Embed, embedder, machine
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.evaluation.datasets import Dataset, load
from lightmem_engine.evaluation.retrieval import evaluate
from lightmem_engine.long_term.memory import reader_line
from lightmem_engine.long_term.rank import DEFAULT_WEIGHTS, Weights
from lightmem_engine.types import Vectors
from tests.evaluation.raw_memory import RawMemory

DIM = 384
RESULTS = Path(__file__).parent / "results" / "recall.csv"


def remembered(embed: Embed) -> Embed:
    """Embed every text once, however many variants ask for it."""
    known: dict[str, np.ndarray] = {}

    async def cached(texts: Sequence[str]) -> Vectors:
        new = sorted({text for text in texts if text not in known}, key=len)
        if new:
            known.update(zip(new, await embed(new), strict=True))
        return np.stack([known[text] for text in texts])

    return cached


def variants() -> dict[str, tuple[EngineConfig, Weights]]:
    """The default, each strategy, and the default without each of its terms."""
    config = EngineConfig()
    found = {"default": (config, DEFAULT_WEIGHTS)}
    for strategy in ("embedding", "context"):
        found[f"{strategy} only"] = (replace(config, **{"search.index_strategy": strategy}), DEFAULT_WEIGHTS)
    for term in ("named_speaker", "person", "date", "question"):
        found[f"without {term}"] = (config, dataclasses.replace(DEFAULT_WEIGHTS, **{term: 0.0}))
    return found


async def measure(dataset: Dataset, embed: Embed) -> list[dict[str, object]]:
    """One row per variant."""
    rows: list[dict[str, object]] = []
    for name, (config, weights) in variants().items():
        report = await evaluate(RawMemory(embed, DIM, config, weights=weights), dataset, render=reader_line)
        credited = {f"credited {key}": value for key, value in report["credited"].items() if key != "questions"}
        figures = {key: round(value, 4) for key, value in (report["main"] | credited).items()}
        rows.append({"dataset": dataset.name, "variant": name, **figures, **machine()})
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Measure each dataset named on the command line."""
    embed = remembered(embedder("minilm", "cpu"))
    pairs = list(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
    rows = [row for name, path in pairs for row in asyncio.run(measure(load(name, path), embed))]
    fields = list(dict.fromkeys(key for row in rows for key in row))
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=fields)
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()

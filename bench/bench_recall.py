"""What each term of the ranking contributes, on raw turns and without any language model.

    python -m bench.bench_recall locomo FILE [beam FILE ...]

Turns are cut into stretches of at most 120 words and kept as they are, so the figures judge search alone; budgets are
counted on dated raw lines, which makes R@B lower than that of compressed memory. One row per dataset,
variant and metric in bench/results/recall.csv. The files are for measuring only: no setting may be chosen per set.
"""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Sequence

import numpy as np

from bench.bench_search import Embed, embedder
from bench.harness import Table, parser_of, table_of
from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.evaluation.datasets import Dataset, load
from lightmem_engine.evaluation.retrieval import evaluate
from lightmem_engine.long_term.memory import reader_line
from lightmem_engine.long_term.rank import DEFAULT_WEIGHTS, Weights
from lightmem_engine.types import Floats, Vectors
from tests.evaluation.raw_memory import RawMemory

DIM = 384
GRAPHLESS = "embedding+context"
SAMPLES = 10_000


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
    for strategy in ("embedding", "context", "graph", GRAPHLESS):
        found[f"{strategy} only"] = (replace(config, **{"search.index_strategy": strategy}), DEFAULT_WEIGHTS)
    for term in ("around", "answer", "walk", "named_speaker", "person", "date", "question"):
        found[f"without {term}"] = (config, dataclasses.replace(DEFAULT_WEIGHTS, **{term: 0.0}))
    return found


async def measure(dataset: Dataset, embed: Embed, table: Table) -> None:
    """One row per variant and metric, then what the graph adds, question by question."""
    single: dict[str, list[tuple[str, float]]] = {}
    for name, (config, weights) in variants().items():
        own = single.setdefault(name, [])
        memory = RawMemory(embed, DIM, config, weights=weights)
        report = await evaluate(
            memory,
            dataset,
            render=reader_line,
            each=lambda category, main, own=own: own.append((category, main["R@10"])),  # type: ignore[misc]
        )
        credited = {f"credited {key}": value for key, value in report["credited"].items() if key != "questions"}
        for metric, value in (report["main"] | credited).items():
            unit = "questions" if metric == "questions" else "share"
            table.value({"dataset": dataset.name, "variant": name}, metric, unit, value)
    for category, gains in gained(single["default"], single[f"{GRAPHLESS} only"]).items():
        low, high = interval(gains)
        case = {"dataset": dataset.name, "variant": "default", "against": GRAPHLESS, "category": category}
        for metric, value in (("mean", float(gains.mean())), ("95 % from", low), ("95 % to", high)):
            table.value(case, f"R@10 gained by the graph, {metric}", "share", value)


def gained(after: Sequence[tuple[str, float]], before: Sequence[tuple[str, float]]) -> dict[str, Floats]:
    """What each question gained, by category and over all but adversarial ones."""
    found: dict[str, list[float]] = {}
    for (category, new), (_, old) in zip(after, before, strict=True):
        for group in (category, *(() if category == "adversarial" else ("all",))):
            found.setdefault(group, []).append(new - old)
    return {group: np.array(values, np.float32) for group, values in sorted(found.items())}


def interval(gains: Floats) -> tuple[float, float]:
    """95 % interval of the mean by a paired bootstrap over questions."""
    drawn = np.random.default_rng(0).integers(0, len(gains), (SAMPLES, len(gains)))
    low, high = np.percentile(gains[drawn].mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each dataset named on the command line."""
    parser = parser_of(__doc__)
    parser.add_argument("pairs", metavar="NAME FILE", nargs="+")
    args = parser.parse_args(argv)
    if len(args.pairs) % 2:
        parser.error("every dataset needs a name and a file")
    embed = remembered(embedder("minilm", "cpu"))
    table = table_of("recall", args)
    for name, path in zip(args.pairs[::2], args.pairs[1::2], strict=True):
        asyncio.run(measure(load(name, path), embed, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())

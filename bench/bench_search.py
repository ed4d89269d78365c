"""Recall in one user's memory, embedding of the question included.

    python -m bench.bench_search [--entries 1000,10000,100000] [--searches 200] [--embedder stub|minilm] [--device cpu]

Rows in bench/results/search.csv: per memory size and strategy, milliseconds of `LongTermMemory.search(top_k=10)`; per
memory size, memory of the index and seconds to build it. The store is a stub that makes up hits, so what is timed is
the question's embedding, both indexes, ranking and hydration's bookkeeping. Words are English and Zipf-distributed (an
invented word would cost the tokenizer four pieces and the embedding three times the time), vectors are random.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache, partial

import numpy as np

from bench.harness import Table, parser_of, table_of
from lightmem_engine.config import EngineConfig
from lightmem_engine.long_term.memory import LongTermMemory
from lightmem_engine.long_term.rank import Strategy
from lightmem_engine.models.packaged import packaged_minilm
from lightmem_engine.stores.user_index import UserIndex
from lightmem_engine.text import STOPWORDS
from lightmem_engine.types import Hit, IndexDoc, Scope, Vectors

DIM = 384
WORDS_PER_ENTRY = 15
WORDS_PER_QUESTION = 10
STRATEGIES: tuple[Strategy, ...] = ("embedding", "context", "hybrid")
START = datetime(2023, 1, 1, tzinfo=UTC)

Embed = Callable[[Sequence[str]], Awaitable[Vectors]]


class MadeUpFeed:
    """A store whose user has `docs`, and whose every ref exists."""

    def __init__(self, docs: Sequence[IndexDoc]) -> None:
        self._docs = docs

    async def changes(self, scope: Scope, since_seq: int) -> tuple[Sequence[IndexDoc], int]:
        return self._docs[since_seq:], len(self._docs)

    async def hydrate(self, scope: Scope, refs: Sequence[str]) -> dict[str, Hit]:
        return {ref: Hit(ref, "text", 0.0, "turn", (ref,), START, START, "active") for ref in refs}


class Clock:
    """Time that stands still."""

    def now(self) -> datetime:
        return datetime(2024, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0


@cache
def vocabulary() -> tuple[str, ...]:
    """English content words, the most frequent first: a word piece vocabulary is in order of frequency."""
    pieces = json.loads((packaged_minilm().directory / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]
    words = sorted((piece for piece in pieces if piece.isalpha() and len(piece) > 2), key=pieces.__getitem__)
    return tuple(word for word in words if word.isascii() and word not in STOPWORDS)


def sentences(rng: np.random.Generator, count: int, length: int) -> list[str]:
    """Texts of English words in no order, the word of rank r about as frequent as 1 / (r + 5): the content words of a
    question then occur, summed, in a third of all entries, as in months of real chat."""
    words = vocabulary()
    share = 1 / (np.arange(len(words)) + 5)
    ranks = rng.choice(len(words), (count, length), p=share / share.sum())
    return [" ".join(words[rank] for rank in row) for row in ranks.tolist()]


def entries(rng: np.random.Generator, count: int) -> list[IndexDoc]:
    """Turns of two people in sessions of twenty, one every minute; each names two things that others name, too."""
    vectors = rng.standard_normal((count, DIM)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return [
        IndexDoc(
            "put",
            f"m{i}.0",
            f"e{i}",
            session=f"s{i // 20}",
            position=(i, 0),
            state="active",
            role="assistant" if i % 2 else "user",
            speaker="Bob" if i % 2 else "Ann",
            text=text,
            names=tuple(text.split()[:2]),
            vector=vectors[i],
            event_time=START + timedelta(minutes=i),
            recorded_at=START,
        )
        for i, text in enumerate(sentences(rng, count, WORDS_PER_ENTRY))
    ]


def embedder(name: str, device: str) -> Embed:
    """A stub that takes no time, or the packaged MiniLM in a thread."""
    if name == "stub":
        vector = np.full((1, DIM), DIM**-0.5, np.float32)

        async def stub(texts: Sequence[str]) -> Vectors:
            return vector

        return stub
    import torch

    from lightmem_engine.models.encoder import Encoder, SentenceEmbedder

    dtype = torch.float32 if device == "cpu" else torch.float16
    model = SentenceEmbedder(Encoder(packaged_minilm(), device=device, dtype=dtype))

    async def real(texts: Sequence[str]) -> Vectors:
        return await asyncio.to_thread(model.encode, texts)

    return real


def _same(index: UserIndex) -> UserIndex:
    return index


async def measure(memory: LongTermMemory, questions: Sequence[str], strategy: Strategy) -> list[float]:
    """Milliseconds of each search, one after another, after three to warm up."""
    times = []
    for i, question in enumerate([*questions[:3], *questions]):
        started = time.perf_counter()
        hits = await memory.search(Scope("bench"), question, strategy=strategy)
        elapsed = (time.perf_counter() - started) * 1000
        assert len(hits) == 10
        if i >= 3:
            times.append(elapsed)
    return times


async def run(sizes: Sequence[int], num_searches: int, embedder_name: str, device: str, table: Table) -> None:
    """Record all rows."""
    embed = embedder(embedder_name, device)
    for size in sizes:
        rng = np.random.default_rng(size)
        docs = entries(rng, size)
        questions = [f"What did Ann say of {text}?" for text in sentences(rng, num_searches, WORDS_PER_QUESTION)]
        index = UserIndex(DIM, device)
        started = time.perf_counter()
        index.apply(docs, len(docs))
        case: dict[str, object] = {"entries": size, "device": device}
        table.value(case, "index build", "s", time.perf_counter() - started)
        table.value(case, "index memory", "MB", index.nbytes / 1e6)
        for strategy in STRATEGIES:
            memory = LongTermMemory(MadeUpFeed(docs), partial(_same, index), embed, EngineConfig(), Clock())
            times = await measure(memory, questions, strategy)
            table.spread(case | {"strategy": strategy, "embedder": embedder_name}, "search", "ms", times)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, measure, append to the results."""
    parser = parser_of(__doc__)
    parser.add_argument("--entries", default="1000,10000,100000")
    parser.add_argument("--searches", type=int, default=200)
    parser.add_argument("--embedder", choices=["stub", "minilm"], default="stub")
    parser.add_argument("--device", default="cpu")
    args = parser.parse_args(argv)
    table = table_of("search", args)
    sizes = [int(size) for size in args.entries.split(",")]
    asyncio.run(run(sizes, args.searches, args.embedder, args.device, table))
    return 0


if __name__ == "__main__":
    sys.exit(main())

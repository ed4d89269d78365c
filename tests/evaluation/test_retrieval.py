"""A replay from file to figures."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightmem_engine.evaluation.datasets import Dataset, load
from lightmem_engine.evaluation.retrieval import evaluate
from lightmem_engine.long_term.memory import reader_line
from lightmem_engine.text import terms
from lightmem_engine.types import Hit, Vectors
from tests.evaluation import samples
from tests.evaluation.raw_memory import RawMemory
from tests.reference import load_evalkit

DIM = 256


async def embed(texts: Sequence[str]) -> Vectors:
    rows = np.full((len(texts), DIM), 1e-3, np.float32)
    for row, text in zip(rows, texts, strict=True):
        for term in terms(text):
            row[zlib.crc32(term.encode()) % DIM] += 1
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


@pytest.fixture
def locomo(tmp_path: Path) -> Dataset:
    return load("locomo", samples.write(tmp_path, samples.LOCOMO))


async def test_locomo(locomo: Dataset) -> None:
    seen: list[tuple[int, int]] = []
    report = await evaluate(
        RawMemory(embed, DIM), locomo, render=reader_line, progress=lambda done, total: seen.append((done, total))
    )
    main = report["main"]
    assert main["questions"] == 3  # the adversarial one and the one without evidence are not headline
    assert main["R@5"] == main["R@1024"] == 1
    assert main["R@512"] == report["credited"]["R@512"] == 1
    assert set(main) == {
        *("R@5", "R@10", "R@20", "R@512", "R@1024"),
        *("ans@512", "ansfull@512", "ans@1024", "ansfull@1024", "questions"),
    }
    assert set(report["by_category"]) == {"multi_hop", "temporal", "single_hop", "adversarial"}
    assert report["by_category"]["temporal"]["ansfull@1024"] == 0  # the raw turn says "yesterday"
    assert report["by_category"]["single_hop"]["ansfull@1024"] == 1
    assert report["cost"]["messages"] == 5
    assert report["cost"]["conversations"] == 1
    assert seen == [(1, 1)]
    json.dumps(report, allow_nan=False)


async def test_beam_groups_the_fact_abilities(tmp_path: Path) -> None:
    dataset = load("beam", samples.write(tmp_path, samples.BEAM))
    report = await evaluate(RawMemory(embed, DIM), dataset, render=reader_line)
    assert report["by_category"]["facts"]["R@2048"] == 1
    assert "abstention" not in report["by_category"]


async def test_cost_takes_the_engines_counters_and_the_whole_memory(locomo: Dataset) -> None:
    calls = iter([{"llm_calls": 3}, {"llm_calls": 10, "llm_tokens": 70}])

    async def usage() -> Mapping[str, float]:
        return next(calls)

    async def everything(user: str) -> Sequence[str]:
        return ["greyhound called Biscuit", "pottery"]

    report = await evaluate(RawMemory(embed, DIM), locomo, render=reader_line, usage=usage, everything=everything)
    assert report["cost"]["llm_calls"] == 7
    assert report["cost"]["llm_tokens"] == 70
    assert report["cost"]["retention"] == pytest.approx(2 / 3)
    assert 0 < report["cost"]["memory_tokens_per_raw"] < 1


class Canned(RawMemory):
    """Answers every search with the same hits."""

    def __init__(self, hits: Sequence[tuple[str, str, str]]) -> None:
        super().__init__(embed, DIM)
        self._hits = hits

    async def search(self, query: str, **options: Any) -> list[Hit]:
        moment = datetime(2022, 5, 8, tzinfo=UTC)
        return [
            Hit(str(i), text, 0, kind, (source,), moment, moment, "active")  # type: ignore[arg-type]
            for i, (kind, source, text) in enumerate(self._hits)
        ]


async def test_an_entry_must_earn_its_sources(locomo: Dataset) -> None:
    claims = [("turn", "D2:1", "I"), ("turn", "D1:1", "I"), ("turn", "D2:2", "My")]
    report = await evaluate(Canned(claims), locomo, render=reader_line)
    assert report["main"]["R@5"] == 1
    assert report["credited"]["R@5"] == 0


async def test_stretches_of_a_message_earn_it_together_facts_alone(locomo: Dataset) -> None:
    halves = ["signed up", "class"]
    for kind, expected in (("turn", 1.0), ("fact", 0.0)):
        claims = [(kind, "D1:1", half) for half in halves]
        report = await evaluate(Canned(claims), locomo, render=reader_line)
        assert report["credited"]["R@5"] == pytest.approx(expected * (1 + 0.5) / 3)


async def test_figures_equal_the_reference(locomo: Dataset) -> None:
    evalkit = load_evalkit()
    memory = RawMemory(embed, DIM)
    report = await evaluate(memory, locomo, render=reader_line)
    (talk,) = locomo.conversations
    turns = {message.id: message.text for message in talk.messages}
    idf = evalkit.idf_table(list(turns.values()))
    expected: dict[str, list[float]] = {"R@5": [], "ans@512": [], "credited": []}
    for question in [q for q in talk.questions if q.gold and q.category in locomo.headline]:
        hits = await memory.search(question.text, user_id=f"eval-locomo-{talk.id}", top_k=50)
        lines = [reader_line(hit) for hit in hits]
        sources = [list(hit.source_ids) for hit in hits]
        count = evalkit.within_budget(lines, 512)
        expected["R@5"].append(evalkit.evidence_recall(sources, question.gold, 5))
        expected["ans@512"].append(evalkit.answer_recall(question.answer, " ".join(lines[:count])))
        earned = [
            evalkit.credited_ids(hit.text, ids, turns, idf, question.answer)
            for hit, ids in zip(hits, sources, strict=True)
        ]
        expected["credited"].append(evalkit.evidence_recall(earned, question.gold, 5))
    assert report["main"]["R@5"] == pytest.approx(np.mean(expected["R@5"]), abs=1e-9)
    assert report["main"]["ans@512"] == pytest.approx(np.mean(expected["ans@512"]), abs=1e-9)
    assert report["credited"]["R@5"] == pytest.approx(np.mean(expected["credited"]), abs=1e-9)

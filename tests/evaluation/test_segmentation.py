"""Segmentation metrics: by hand, against the reference, and through the real stage."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.config_sensory import CompressConfig, SegmentConfig
from lightmem_engine.evaluation import segmentation
from lightmem_engine.evaluation.run import Judged, evaluate_file
from tests.evaluation.stub_stage import stub_stage
from tests.reference import load_evalkit

TOPICS = {
    "garden": "tulips roses soil compost watering seeds spade",
    "music": "violin concert rehearsal orchestra melody piano choir",
    "travel": "airport luggage passport boarding hotel flight visa",
}


def document(seed: int, lengths: Sequence[int] = (5, 6, 5), *, people: bool = False) -> dict[str, Any]:
    """A dialogue through three topics, each turn made of its topic's words."""
    drawn = random.Random(seed)
    turns: list[dict[str, str]] = []
    boundaries: list[int] = []
    for topic, length in zip(drawn.sample(sorted(TOPICS), 3), lengths, strict=True):
        boundaries.append(len(turns))
        for _ in range(length):
            for who in ("Ann", "Bob") if people else ("user", "assistant"):
                key = "speaker" if people else "role"
                turns.append({key: who, "text": " ".join(drawn.sample(TOPICS[topic].split(), 4))})
    return {"id": str(seed), "turns": turns, "boundaries": boundaries[1:]}


def test_by_hand() -> None:
    assert segmentation.pk(10, [5], [5]) == segmentation.window_diff(10, [5], [5]) == 0
    assert segmentation.pk(4, [2], []) == pytest.approx(1 / 3)
    assert segmentation.matches([5, 9], [4, 9], 1) == 2
    assert segmentation.matches([5, 9], [4, 9], 0) == 1
    assert segmentation.matches([5], [4, 6], 1) == 1
    perfect = segmentation.report([document(1)], [document(1)["boundaries"]])
    assert (perfect["Pk"], perfect["WD"], perfect["F1"], perfect["F1@1"], perfect["score"]) == (0, 0, 1, 1, 1)


def test_metrics_equal_the_reference() -> None:
    evalkit = load_evalkit()
    drawn = random.Random(7)
    documents, hypotheses = [], []
    for _ in range(60):
        n = drawn.randint(2, 30)
        boundaries = sorted(drawn.sample(range(1, n), drawn.randint(1, min(6, n - 1))))
        documents.append({"turns": [{}] * n, "boundaries": boundaries})
        hypotheses.append([drawn.randint(-1, n + 1) for _ in range(drawn.randint(0, 6))])
    ours, theirs = segmentation.report(documents, hypotheses), evalkit.seg_report(documents, hypotheses)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name] == pytest.approx(value, abs=1e-9)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_the_dip_baseline_equals_the_reference(n: int) -> None:
    evalkit = load_evalkit()
    for seed in range(10):
        vectors = np.random.default_rng(seed).standard_normal((n, 6))
        if n > 1:
            assert segmentation.dip_boundaries(vectors) == evalkit.dip_boundaries(vectors)
            assert segmentation.dip_boundaries(vectors, width=5, spreads=0.5) == evalkit.dip_boundaries(vectors, 5, 0.5)
    assert segmentation.dip_boundaries(np.ones((1, 6))) == []


def test_roles_and_people_of_a_document() -> None:
    turns = segmentation.document_turns(
        {"turns": [{"speaker": "user", "text": "a"}, {"speaker": "system", "text": "b"}, {"speaker": "A", "text": "c"}]}
    )
    assert [(turn.role, turn.speaker) for turn in turns] == [
        ("user", "user"),
        ("assistant", "assistant"),
        ("user", "A"),
    ]


@pytest.mark.parametrize("people", [False, True], ids=["dialogue", "people"])
@pytest.mark.parametrize("mode", ["hybrid", "paper"])
async def test_whole_runs_find_clear_topics(people: bool, mode: Any) -> None:
    documents = [document(seed, people=people) for seed in range(4)]
    found = await segmentation.evaluate(documents, stub_stage(CompressConfig()), SegmentConfig(mode=mode))
    assert set(found) == {"main", "empty", "dip"}
    assert {"Pk", "WD", "F1", "F1@1", "score"} <= set(found["main"])
    assert found["empty"]["F1"] == 0
    if mode == "hybrid":
        assert found["main"]["F1"] > 0.75


async def test_live_boundaries_are_those_an_engine_stored(tmp_path: Path) -> None:
    file = tmp_path / "documents.json"
    file.write_text(json.dumps([document(seed) for seed in range(4)]))
    config = replace(EngineConfig(), **{"embedder.stub": True, "classifier.source": "stub"})
    found = await evaluate_file("segmentation", [str(file)], config, Judged(), lambda text: None)
    assert set(found) == {"main", "live", "empty", "dip", "paper, code index", "paper, paper index"}
    assert found["live"]["F1"] > 0.75

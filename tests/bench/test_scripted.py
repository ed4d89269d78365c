"""The model by script, and the benches that it serves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from bench import bench_cost, bench_night
from bench.bench_recall import gained, interval
from bench.scripted import reply
from lightmem_engine.prompts import v1
from tests.evaluation.samples import LOCOMO
from tests.sleep.note import note


def answered(messages: list[dict[str, str]], schema: Any) -> Any:
    """The script's answer to a prompt, which satisfies its schema."""
    answer = json.loads(reply({"messages": messages}))
    jsonschema.validate(answer, schema)
    return answer


def test_decisions_unite_what_shares_words_and_leave_the_rest() -> None:
    notes = [
        note(1, "the red kayak sank near Oslo"),
        note(2, "the red kayak sank near Oslo"),
        note(3, "the red kayak was sold"),
        note(4, "nothing of the kind"),
    ]
    decisions = answered(v1.decide(notes, [1, 2, 3]), v1.DECIDE)["decisions"]
    assert [item["action"] for item in decisions] == ["duplicate", "ignore", "ignore"]
    (update,) = answered(v1.decide(notes[1:3], [1]), v1.DECIDE)["decisions"]
    assert update == {"entry": 1, "action": "update", "by": 2, "text": "the red kayak sank near Oslo; sold"}


def test_facts_and_summaries_cite_what_they_are_made_of() -> None:
    turns = [
        v1.Numbered("Ann", "I bought a red kayak.", note(1, "").event_time),
        v1.Numbered("Bob", "You?", note(2, "").event_time),
    ]
    found = answered(v1.extract(turns, "event"), v1.EXTRACT["event"])
    assert [fact["source"] for fact in found["facts"]] == [1]
    assert answered(v1.summarize([note(1, "a kayak"), note(2, "a boat")]), v1.SUMMARY)["sources"] == [1, 2]


def test_a_gain_that_is_always_the_same_has_no_doubt() -> None:
    gains = gained([("a", 1.0), ("b", 0.5)], [("a", 0.5), ("b", 0.0)])
    assert {group: values.tolist() for group, values in gains.items()} == {"a": [0.5], "all": [0.5, 0.5], "b": [0.5]}
    assert interval(np.full(20, 0.5, np.float32)) == (0.5, 0.5)


def test_both_benches_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "locomo.json"
    path.write_text(json.dumps(LOCOMO))
    assert bench_night.main(["locomo", str(path), "--stub-encoders", "--dry"]) == 0
    rows = capsys.readouterr().out
    assert '"when": "before"} R@10' in rows
    assert '"when": "after"} R@10' in rows
    assert bench_cost.main([str(path), "--stub-encoders", "--dry"]) == 0
    rows = capsys.readouterr().out
    for figure in ('"this engine"} calls, all: ', "calls, extraction: ", "published: Mem0"):
        assert figure in rows

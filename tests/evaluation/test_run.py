"""`eval` from file to report through a real engine, with weight-free models."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lightmem_engine.config import EngineConfig
from lightmem_engine.config import replace as configure
from lightmem_engine.errors import InvalidInput
from lightmem_engine.evaluation.run import evaluate_file
from tests.evaluation import samples
from tests.evaluation.test_judged import locomo_script, serve

STUBS = configure(EngineConfig(), **{"embedder.stub": True, "classifier.source": "stub"})


@dataclass
class Options:
    what: str
    file: Sequence[str] = ()
    reader: str | None = None
    judge: str | None = None
    reader_model: str = ""
    judge_model: str = ""
    log: str | None = None


def silent(text: str) -> None:
    """Progress nobody watches."""


@pytest.mark.parametrize(("what", "sample"), [("locomo", samples.LOCOMO), ("beam", samples.BEAM)])
async def test_report(tmp_path: Path, what: str, sample: Any) -> None:
    seen: list[str] = []
    options = Options(what, [str(samples.write(tmp_path, sample))])
    report = await evaluate_file(options, STUBS, progress=seen.append)
    assert set(report) == {"main", "credited", "by_category", "cost"}
    assert report["main"]["R@20"] == 1
    assert report["cost"]["llm_calls"] == 0
    assert seen == [f"{what}: 1 of 1 conversations"]
    json.dumps(report, allow_nan=False)


async def test_judged(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with serve(locomo_script) as (url, _):
        options = Options("locomo", [str(samples.write(tmp_path, samples.LOCOMO))], reader=url, judge=url, log=str(log))
        report = await evaluate_file(options, STUBS, progress=silent)
    assert set(report["main"]) == {"memory", "full_context", "naive_rag"}
    assert report["main"]["full_context"] == pytest.approx(1 / 4)
    assert len(log.read_text().splitlines()) == 12


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"file": []}, "takes one file"),
        ({"file": ["nowhere.json"]}, "cannot read"),
        ({"reader": "http://x/v1"}, "both --reader and --judge"),
        ({"what": "chess"}, "no such dataset"),
        ({"reader": "http://x/v1", "judge": "http://x/v1", "log": "/nowhere/log"}, "cannot write"),
    ],
)
async def test_refuses(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    given = {"what": "locomo", "file": [str(samples.write(tmp_path, samples.LOCOMO))], **changes}
    with pytest.raises(InvalidInput, match=message):
        await evaluate_file(Options(**given), STUBS, progress=silent)

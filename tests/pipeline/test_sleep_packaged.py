"""The packaged model decides in sleep: invented people who correct and repeat themselves, with look-alikes around."""

from __future__ import annotations

from pathlib import Path

from bench.bench_sleep import measure
from bench.planted import life
from lightmem_engine.config import EngineConfig, replace


async def test_it_finds_corrections_and_leaves_look_alikes_alone(tmp_path: Path) -> None:
    options = {"data_dir": str(tmp_path), "extract.mode": "extractive", "sleep.mode": "llm"}
    outcome = await measure(replace(EngineConfig(), **options), {f"user{seed}": life(seed) for seed in range(200, 208)})
    assert sum(outcome.asked.values()) == 24
    assert sum(outcome.after.values()) >= 20
    assert len(outcome.hidden) <= 1, outcome.hidden
    assert outcome.united == outcome.repeated == 16
    assert outcome.destroyed == outcome.unlisted == 0
    assert outcome.restored
    assert outcome.report is not None
    assert outcome.report.run.calls > 0

"""What the bench of sleep claims, on a few invented users and by rules alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.bench_sleep import measure
from bench.planted import life
from tests.support.memory import quick_config


@pytest.mark.parametrize("noise", [0.0, 0.8])
async def test_corrections_work_and_nothing_else_is_touched(tmp_path: Path, noise: float) -> None:
    lives = {f"user{seed}": life(seed, noise=noise) for seed in range(8)}
    outcome = await measure(quick_config(tmp_path), lives)
    assert (sum(outcome.asked.values()), outcome.repeated, outcome.untouched) == (24, 16, 40)
    assert outcome.hidden == []
    assert (outcome.destroyed, outcome.unlisted, outcome.restored) == (0, 0, True)
    assert outcome.united == outcome.repeated
    assert outcome.after[True] > outcome.before[True]
    assert outcome.after[False] == outcome.before[False], "without a word of change, rules leave both"


def test_the_same_seed_tells_the_same() -> None:
    assert life(3) == life(3)
    assert life(3) != life(4)
    told = life(5)
    assert [said.when for said in told] == sorted(said.when for said in told)
    assert len({said.id for said in told}) == len(told) == 15

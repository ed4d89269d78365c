"""kill -9 while the engine sleeps: the run goes on, nothing is applied twice, and only calls in flight are repeated."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import night


def test_four_kills_of_one_run(tmp_path: Path) -> None:
    night.run(tmp_path / "data", pairs=16, kills=4, seed=1)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", range(5))
def test_fifty_kills(tmp_path: Path, seed: int) -> None:
    night.run(tmp_path / "data", pairs=40, kills=10, seed=seed)

"""kill -9 at named places and at random: nothing acknowledged is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import crash


def test_twenty_crashes(tmp_path: Path) -> None:
    ledger = crash.run(tmp_path / "data", rounds=20, seed=1)
    assert len(ledger.users) > 20
    crash.check(tmp_path / "data", ledger)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_crashes(tmp_path: Path) -> None:
    ledger = crash.run(tmp_path / "data", rounds=200, seed=2)
    crash.check(tmp_path / "data", ledger)

"""Whatever breaks: no client is told that something is stored which is not, and nothing is stored twice."""

from __future__ import annotations

import pytest

from bench import bench_chaos


@pytest.mark.parametrize("name", bench_chaos.SCENARIOS)
def test_nothing_acknowledged_is_lost(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_chaos.main([name, "--small", "--dry"]) == 0
    *_, row = capsys.readouterr().out.strip().splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[0] == name
    assert int(cells[3]) > 0, "some were acknowledged"
    assert cells[5:7] == ["0", "0"]
    match name:
        case "disk full":
            assert "store_error" in cells[2]
            assert "6 of 6 turns stored" in cells[7]
        case "killed with -9":
            assert "broken off" in cells[1] or "no connection" in cells[1]
        case "database damaged while stopped":
            assert "start refused with 1" in cells[7]
        case "database damaged while running":
            assert cells[1] == "48 × 200", "chats go on"
            assert "corrupt_store" in cells[2]
            assert "/health/ready while damaged: 503" in cells[7]
        case "model server fails":
            assert "questions stored, whatever became of the answer: 24 of 24" in cells[7]
            assert all(status in cells[1] for status in ("200", "500", "502", "504"))
        case "200 streams, half of them left":
            assert "still under way at the end: 0" in cells[7]


def test_an_unknown_scenario_is_refused() -> None:
    with pytest.raises(SystemExit):
        bench_chaos.main(["nonsense"])

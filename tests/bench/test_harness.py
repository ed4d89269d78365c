"""Rows say what was measured, on what, with which code."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import pytest

from bench.harness import FIELDS, RESULTS, Table, append, interleaved, revision


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_holds_the_figure_and_its_surroundings(tmp_path: Path) -> None:
    table = Table("demo", tmp_path)
    table.value({"users": 3, "mode": "a,b"}, "errors", "requests", 0)
    table.spread({"users": 3}, "latency", "ms", range(101))
    first, second = _read(tmp_path / "demo.csv")
    assert (first["bench"], first["metric"], first["unit"], first["value"]) == ("demo", "errors", "requests", "0")
    assert json.loads(first["case"]) == {"users": 3, "mode": "a,b"}
    assert [second[name] for name in ("p20", "p50", "p80", "p99", "count", "value")] == [
        "20",
        "50",
        "80",
        "99",
        "101",
        "",
    ]
    for row in (first, second):
        assert row["cpu"]
        assert int(row["cores"]) >= 1
        assert float(row["load"]) >= 0
        assert row["time"].endswith("+00:00")
        assert {"python", "numpy", "torch"} <= set(json.loads(row["versions"]))


def test_appending_keeps_one_header_and_earlier_rows(tmp_path: Path) -> None:
    for value in (1.23456, 123456.7):
        Table("demo", tmp_path).value({}, "x", "s", value)
    lines = (tmp_path / "demo.csv").read_text().splitlines()
    assert lines[0] == ",".join(FIELDS)
    assert [row["value"] for row in _read(tmp_path / "demo.csv")] == ["1.235", "123457"]


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match="other columns"):
        append(path, [{"bench": "x"}])
    assert path.read_text() == "a,b\n1,2\n"


def test_dry_tables_store_nothing_and_empty_spreads_are_no_rows(tmp_path: Path) -> None:
    table = Table("demo", None)
    table.spread({}, "latency", "ms", [])
    assert table.rows == []
    table.value({}, "x", "s", 1)
    assert len(table.rows) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_copy_without_a_repository_is_told_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BENCH_COMMIT", "0123456789 false")
    assert revision(tmp_path) == ("0123456789", "false")


def test_dirty_means_code_not_results(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "commit.gpgsign=false")
        subprocess.run(("git", "-C", str(tmp_path), *identity, *arguments), check=True, capture_output=True)

    assert revision(tmp_path) == ("", "")
    git("init")
    (tmp_path / "code.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "code")
    commit, dirty = revision(tmp_path)
    assert (len(commit), dirty) == (10, "false")
    (tmp_path / "bench" / "results").mkdir(parents=True)
    (tmp_path / "bench" / "results" / "x.csv").write_text("x\n")
    assert revision(tmp_path) == (commit, "false")
    (tmp_path / "code.py").write_text("2\n")
    assert revision(tmp_path) == (commit, "true")


def test_variants_take_turns() -> None:
    calls: list[str] = []
    times = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=2, warmup=1)
    assert {name: len(found) for name, found in times.items()} == {"a": 2, "b": 2}
    assert calls == ["b", "a", "a", "b", "b", "a"]


def test_stored_results_have_the_columns() -> None:
    for path in RESULTS.glob("*.csv"):
        with path.open(newline="") as file:
            assert tuple(next(csv.reader(file))) == FIELDS, path

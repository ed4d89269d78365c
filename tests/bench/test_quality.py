"""Rows of evaluations."""

from __future__ import annotations

from bench.bench_quality import figures, record
from bench.harness import Table


def test_every_number_of_a_result_becomes_a_row() -> None:
    result = {"main": {"R@5": 0.5, "R@10": 0.75}, "baselines": {"random 0.5": {"kept": 0.5}}}
    assert list(figures(result)) == [
        ("main", "R@5", 0.5),
        ("main", "R@10", 0.75),
        ("baselines/random 0.5", "kept", 0.5),
    ]
    table = Table("quality", None)
    record(table, "locomo", "dev", result)
    assert [(row["metric"], row["value"]) for row in table.rows] == [("R@5", "0.5"), ("R@10", "0.75"), ("kept", "0.5")]
    assert all(row["commit"] and row["cpu"] for row in table.rows)

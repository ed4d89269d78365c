"""What connectors say of themselves, as the owner of the memory tells it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lightmem_engine.pipeline import kv_reports
from lightmem_engine.pipeline.kv_reports import Report, Reports
from lightmem_engine.wire_kv import LEASE_SECONDS

COUNTED = Report(
    "", {"hits": {"": 2}, "errors": {"OSError": 1}}, {"load": {"buckets": [1, 0, 2], "sum": 0.5}}, {7: (64, 32)}
)


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


@pytest.fixture
def reports(clock: list[float]) -> Reports:
    return Reports(lambda: clock[0])


def test_why_nothing_is_kept_is_said_as_long_as_it_is_so(reports: Reports, clock: list[float]) -> None:
    assert "no model server asks" in reports.describe("")["reason"]
    reports.take("worker", COUNTED)
    kept = {"mode": "persist", "reason": "the model server has a connector", "held_tokens": 64}
    assert reports.describe("") == {**kept, "costs_more_than_it_saves": False}
    reports.take("worker", replace(COUNTED, totals={"losses": {"persist": 1}}))
    assert reports.describe("") == {**kept, "costs_more_than_it_saves": True}
    reports.take("worker", replace(COUNTED, totals={"losses": {"off": 1}}))
    assert reports.describe("")["mode"] == "off"
    assert "more than they saved" in reports.describe("")["reason"]
    reports.take("scheduler", Report("several kinds of attention"))
    assert reports.describe("") == {"mode": "off", "reason": "several kinds of attention"}
    assert reports.describe("prefix caching is off") == {"mode": "off", "reason": "prefix caching is off"}
    clock[0] += LEASE_SECONDS + 1
    assert reports.describe("")["mode"] == "off"
    reports.take("next scheduler", COUNTED)
    assert reports.describe("")["mode"] == "persist"


def test_what_is_gone_of_a_conversation_is_known_from_who_lives(reports: Reports, clock: list[float]) -> None:
    assert reports.gone(7) == 0
    reports.take("scheduler", COUNTED)
    reports.take("worker", Report())
    assert (reports.gone(7), reports.gone(8)) == (32, 0)
    reports.take("scheduler", Report("", {}, {}, {7: (0, 96)}))
    assert reports.gone(7) == 96
    clock[0] += LEASE_SECONDS + 1
    assert reports.gone(7) == 0


def test_counts_add_up_and_outlive_who_counted(
    reports: Reports, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kv_reports, "MAX_REPORTS", 3)
    own = {"totals": {"hits": {"": 1}}, "seconds": {"store": {"buckets": [1, 1, 1], "sum": 1.0}}}
    for number in range(5):
        reports.take(str(number), COUNTED)
        reports.take(str(number), COUNTED)  # the same figures once more
    clock[0] += LEASE_SECONDS + 1
    found = reports.with_own(own)
    assert found["totals"] == {"errors": {"OSError": 5}, "hits": {"": 11}}
    assert found["seconds"]["load"] == {"buckets": [5, 0, 10], "sum": 2.5}
    assert found["seconds"]["store"] == {"buckets": [1, 1, 1], "sum": 1.0}
    assert reports.with_own({})["totals"]["hits"] == {"": 10}

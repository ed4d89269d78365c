"""Metrics against fixed cases and the reference implementation."""

from __future__ import annotations

import math
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.evaluation import metrics
from tests.reference import load_evalkit


@pytest.fixture(scope="session")
def evalkit() -> ModuleType:
    return load_evalkit()


WORDS = "the cat cats sat 7 May 2023, on a mat! Anna's running home"
TEXT = st.lists(st.sampled_from(WORDS.split(" ")), max_size=10).map(" ".join)
IDS = st.sampled_from(["a", "b", "c", "d"])


@given(sources=st.lists(st.lists(IDS, max_size=3), max_size=6), gold=st.lists(IDS, min_size=1), k=st.integers(1, 7))
def test_recall(evalkit: ModuleType, sources: list[list[str]], gold: list[str], k: int) -> None:
    found = metrics.evidence_recall(sources[:k], gold)
    assert found == pytest.approx(evalkit.evidence_recall(sources, gold, k), abs=1e-9)


@given(lines=st.lists(TEXT, min_size=1, max_size=6), budget=st.integers(0, 30))
def test_budget(evalkit: ModuleType, lines: list[str], budget: int) -> None:
    assert metrics.within_budget(lines, budget) == evalkit.within_budget(lines, budget)


@given(answer=TEXT, text=TEXT)
def test_answers(evalkit: ModuleType, answer: str, text: str) -> None:
    assert metrics.answer_recall(answer, text) == pytest.approx(evalkit.answer_recall(answer, text), abs=1e-9)
    assert metrics.answer_contained(answer, text) == evalkit.answer_contained(answer, text)


@given(turns=st.lists(TEXT, min_size=1, max_size=5), entry=TEXT, answer=st.one_of(st.none(), TEXT))
def test_credit(evalkit: ModuleType, turns: list[str], entry: str, answer: str | None) -> None:
    idf = metrics.idf_table(turns)
    assert idf == pytest.approx(evalkit.idf_table(turns), abs=1e-9)
    for turn in turns:
        assert metrics.is_credited(entry, turn, idf, answer) == evalkit.credited(entry, turn, idf, answer)


def test_fixed_cases() -> None:
    assert metrics.evidence_recall([["a"], ["b"]], ["a", "c"]) == 0.5
    assert metrics.evidence_recall([], ["a"]) == 0
    assert metrics.within_budget(["a b c", "d e", "f"], 5) == 2
    assert metrics.within_budget(["a b c"], 1) == 1
    assert metrics.within_budget([], 1) == 0
    assert metrics.answer_contained("7 May 2023", "went on 7 may, 2023") == 1
    assert metrics.answer_recall("", "anything") == 0
    idf = metrics.idf_table(["the blue cat sat", "a dog ran home", "we sat"])
    assert metrics.is_credited("blue cat", "the blue cat sat", idf)
    assert not metrics.is_credited("sat", "the blue cat sat", idf)
    assert metrics.is_credited("home", "a dog ran home", idf, answer="home")
    assert math.isnan(metrics.mean([]))

"""Document frequencies that grow and shrink with the messages."""

from __future__ import annotations

import pytest

from lightmem_engine.sensory.term_counts import TermCounts


def test_a_term_counts_once_a_message() -> None:
    counts = TermCounts()
    counts.add("The cats chased other cats")
    counts.add("A cat, again")
    assert counts.num_documents == 2
    assert counts.document_frequency == {"cat": 2, "chas": 1, "other": 1, "again": 1}


def test_what_is_taken_back_leaves_no_trace() -> None:
    counts = TermCounts()
    counts.add("red fish")
    counts.add("blue fish")
    counts.remove("red fish")
    assert counts.num_documents == 1
    assert counts.document_frequency == {"blue": 1, "fish": 1}


def test_the_view_is_live_and_cannot_be_written() -> None:
    counts = TermCounts()
    view = counts.document_frequency
    counts.add("fish")
    assert view["fish"] == 1
    with pytest.raises(TypeError):
        view["fish"] = 3  # type: ignore[index]

"""Postings without a vocabulary."""

from __future__ import annotations

import numpy as np

from lightmem_engine.stores.postings import Postings


def found(postings: Postings, term: str) -> dict[int, int]:
    slots, counts = postings.find(term)
    return dict(zip(slots.tolist(), counts.tolist(), strict=True))


def test_finds_terms_in_the_tail_and_in_the_sorted_part() -> None:
    postings = Postings()
    for slot in range(6000):  # enough for several merges
        postings.add(slot, ["every", f"only{slot}", f"mod{slot % 3}"])
    assert len(found(postings, "every")) == 6000
    assert found(postings, "only0") == {0: 1}
    assert found(postings, "only5999") == {5999: 1}
    assert sorted(found(postings, "mod1")) == list(range(1, 6000, 3))
    assert found(postings, "absent") == {}
    assert len(postings) == 18_000


def test_counts_repeats_up_to_a_byte() -> None:
    postings = Postings()
    postings.add(0, ["a"] * 3 + ["b"] * 300)
    assert found(postings, "a") == {0: 3}
    assert found(postings, "b") == {0: 255}


def test_renumbering_forgets_and_moves() -> None:
    postings = Postings()
    for slot in range(4):
        postings.add(slot, ["x", f"t{slot}"])
    postings.renumber(np.array([-1, 0, -1, 1], np.int32))
    assert found(postings, "x") == {0: 1, 1: 1}
    assert found(postings, "t3") == {1: 1}
    assert found(postings, "t0") == {}
    postings.add(2, ["x"])
    assert found(postings, "x") == {0: 1, 1: 1, 2: 1}


def test_an_empty_document_is_fine() -> None:
    postings = Postings()
    postings.add(0, [])
    assert len(postings) == 0
    assert found(postings, "x") == {}

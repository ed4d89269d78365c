"""BM25 with borrowed words."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from lightmem_engine.stores.lexical import LexicalIndex
from lightmem_engine.text import terms


def bm25(documents: list[str], query: str) -> list[float]:
    """The textbook formula, one document at a time."""
    counts = [Counter(terms(document)) for document in documents]
    average = sum(sum(c.values()) for c in counts) / len(counts)
    scores = []
    for count in counts:
        score = 0.0
        for term in terms(query):
            df = sum(term in other for other in counts)
            idf = math.log(1 + (len(counts) - df + 0.5) / (df + 0.5))
            length = 1.2 * (1 - 0.75 + 0.75 * sum(count.values()) / average)
            score += idf * count[term] * 2.2 / (count[term] + length)
        scores.append(score)
    return scores


TURNS = ["alpha beta gamma", "delta", "epsilon zeta", "beta beta", "omega"]


def test_equals_the_textbook_where_nothing_is_borrowed() -> None:
    index = LexicalIndex(context_words=0)
    for i, text in enumerate(TURNS):
        index.add(text, session=0, position=(i, 0))
    np.testing.assert_allclose(index.scores(terms("beta omega beta")), bm25(TURNS, "beta omega beta"), rtol=1e-5)


def test_equals_the_textbook_over_whole_neighbours() -> None:
    """With room for everything, each document reads as the whole session."""
    index = LexicalIndex(context_words=1000, borrowed=1.0)
    sessions = [TURNS[:3], TURNS[3:], ["alone beta"]]
    for s, session in enumerate(sessions):
        for i, text in enumerate(session):
            index.add(text, session=s, position=(i, 0))
    joined = [" ".join(session) for session in sessions for _ in session]
    np.testing.assert_allclose(index.scores(terms("beta zeta")), bm25(joined, "beta zeta"), rtol=1e-5)


def test_context_is_bounded_by_words_and_shares_a_long_neighbour() -> None:
    index = LexicalIndex(context_words=4)
    for i, text in enumerate(["kiwi " + "filler " * 7, "one two", "three four five", "six seven"]):
        index.add(text, session=0, position=(i, 0))
    scores = index.scores(["kiwi"])
    assert scores[0] > scores[1] > scores[2] > 0  # half of the long turn, then a quarter
    assert scores[3] == 0


def test_own_words_beat_borrowed_ones() -> None:
    index = LexicalIndex()
    for i, text in enumerate(["I bought a red kayak yesterday", "dull weather", "nice"]):
        index.add(text, session=0, position=(i, 0))
    scores = index.scores(terms("which kayak is red"))
    assert scores[0] > scores[1] > 0


def test_context_never_crosses_a_session() -> None:
    index = LexicalIndex()
    index.add("kiwi", session=0, position=(0, 0))
    index.add("plain words", session=1, position=(1, 0))
    index.add("more words", session=-1, position=(2, 0))
    index.add("other words", session=-1, position=(3, 0))
    assert np.flatnonzero(index.scores(["kiwi"])).tolist() == [0]
    assert np.flatnonzero(index.scores(["other"])).tolist() == [3]


def test_order_is_the_position_not_the_arrival() -> None:
    index = LexicalIndex(context_words=2)
    late = index.add("late words", session=0, position=(9, 0))
    first = index.add("kiwi fruit", session=0, position=(1, 0))
    middle = index.add("middle words", session=0, position=(5, 0))
    index.check()
    scores = index.scores(["kiwi"])
    assert scores[first] > scores[middle] > 0
    assert scores[late] == 0


def test_removal_makes_neighbours_adjacent() -> None:
    index = LexicalIndex(context_words=2)
    slots = [index.add(text, 0, (i, 0)) for i, text in enumerate(["kiwi fruit", "some words", "last words"])]
    assert index.scores(["kiwi"])[slots[2]] == 0
    index.remove(slots[1])
    index.remove(slots[1])
    index.check()
    scores = index.scores(["kiwi"])
    assert scores[slots[2]] > 0
    assert scores[slots[1]] == 0
    assert not index.scores(["some"]).any()


@pytest.mark.parametrize("text", ["", "the of and", "?!"])
def test_documents_and_queries_without_terms(text: str) -> None:
    index = LexicalIndex()
    assert index.scores(terms("x")).shape == (0,)
    index.add(text, 0, (0, 0))
    index.add("kiwi", 0, (1, 0))
    assert index.scores([]).tolist() == [0, 0]
    assert index.scores(["kiwi"])[1] > 0


def test_a_very_long_query_is_searched_by_its_rarest_terms() -> None:
    index = LexicalIndex()
    for i in range(300):
        index.add(f"common word{i}", session=-1, position=(i, 0))
    query = ["common", *(f"absent{i}" for i in range(500)), *(f"word{i}" for i in range(100))]
    assert np.flatnonzero(index.scores(query)).tolist() != []
    assert np.argmax(index.scores([*query[:1], "word7"])) == 7


def test_words_of_nearly_every_document_are_left_out_of_a_large_memory() -> None:
    index = LexicalIndex()
    count = (1 << 16) + 1
    for i in range(count):
        index.add("common kiwi" if i == 5 else "common", session=-1, position=(i, 0))
    assert np.flatnonzero(index.scores(["common", "kiwi"])).tolist() == [5]
    assert np.count_nonzero(index.scores(["common"])) == count  # unless there is nothing else


def test_memory_per_posting_is_small() -> None:
    index = LexicalIndex()
    for i in range(2000):
        index.add(" ".join(f"w{(i * 7 + j * 13) % 5000}" for j in range(20)), i // 20, (i, 0))
    assert index.nbytes < 2000 * 20 * 30

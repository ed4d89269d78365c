"""The walk from the names in a question."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.stores.graph_index import GraphIndex

NAMES = ["ann", "bob", "oslo", "new york"]


def walk(
    documents: Sequence[Sequence[str]], question: str, live: Sequence[bool] = (), linked: bool = False
) -> npt.NDArray[np.float32]:
    index = GraphIndex()
    for slot, names in enumerate(documents):
        index.add(slot, names)
    return _walk(index, len(documents), question, live, linked)


def _walk(
    index: GraphIndex, size: int, question: str, live: Sequence[bool] = (), linked: bool = False
) -> npt.NDArray[np.float32]:
    slots = np.arange(size, dtype=np.int32)
    before = slots - 1 if linked else np.full(size, -1, np.int32)
    after = np.where(slots + 1 < size, slots + 1, -1).astype(np.int32) if linked else np.full(size, -1, np.int32)
    alive = np.array(live or [True] * size, np.bool_)
    return index.walk(question.split(), alive, before.astype(np.int32), after)


def test_a_chain_is_followed_and_ends() -> None:
    found = walk([["ann", "initech"], ["initech", "norrland"], ["norrland", "bergen"], ["rex"]], "how is ann")
    assert found[0] == 1
    assert found[0] > found[1] > found[2] > 0 == found[3]


def test_what_lies_between_two_names_is_found_from_both() -> None:
    one = walk([["ann", "initech"], ["initech", "bergen"], ["initech", "oslo"]], "ann")
    both = walk([["ann", "initech"], ["initech", "bergen"], ["initech", "oslo"]], "ann and bergen")
    assert both[1] > both[2]
    assert one[1] == one[2]


def test_the_longest_name_counts() -> None:
    found = walk([["new york"], ["york"]], "in new york")
    assert found.tolist() == [1, 0]


def test_neighbours_share() -> None:
    found = walk([["ann"], [], [], []], "ann", linked=True)
    assert found[0] > found[1] > 0 == found[3]


def test_no_known_name_no_walk() -> None:
    assert walk([["ann"], ["bob"]], "who is it").tolist() == [0, 0]
    assert walk([], "ann").tolist() == []


def test_the_dead_neither_lead_nor_are_found() -> None:
    found = walk([["ann", "initech"], ["initech", "bergen"], ["bergen"]], "ann", live=[True, False, True])
    assert found.tolist() == [1, 0, 0]


@given(
    st.lists(st.lists(st.sampled_from(NAMES), max_size=3, unique=True), min_size=1, max_size=8),
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=3),
    st.data(),
)
def test_compaction_changes_no_score(documents: list[list[str]], asked: list[str], data: st.DataObject) -> None:
    live = data.draw(st.lists(st.booleans(), min_size=len(documents), max_size=len(documents)))
    index = GraphIndex()
    for slot, names in enumerate(documents):
        index.add(slot, names)
    question = " ".join(asked)
    before = _walk(index, len(documents), question, live)[np.array(live, np.bool_)]
    index.compact(np.where(live, np.cumsum(live) - 1, -1).astype(np.int32))
    np.testing.assert_allclose(_walk(index, sum(live), question), before, rtol=1e-6)

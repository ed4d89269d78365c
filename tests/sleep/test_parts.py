"""Pairs cut into prompts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.sleep.parts import cut
from tests.sleep.note import note

NOTES = [note(number, f"note {number}") for number in range(20)]


def test_targets_that_share_an_entry_come_together() -> None:
    parts = cut(NOTES, {0: [5], 1: [6], 2: [5, 7], 3: [8]}, 4)
    assert [[one.id for one in part.notes] for part in parts] == [["e0", "e2", "e5", "e7"], ["e1", "e3", "e6", "e8"]]
    assert parts[1].sources == {0: (2,), 1: (3,)}
    assert parts[0].sources == {0: (2,), 1: (2, 3)}
    assert parts[0].num_pairs == 3


def test_what_has_nothing_in_common_shares_a_prompt_as_far_as_there_is_room() -> None:
    wanted = {n: [n + 10] for n in range(10)}
    assert [len(part.notes) for part in cut(NOTES, wanted, 24)] == [20]
    assert [len(part.notes) for part in cut(NOTES, wanted, 8)] == [8, 8, 4]
    assert [len(part.notes) for part in cut(NOTES, wanted, 2)] == [2] * 10


def test_targets_can_be_asked_about_one_at_a_time() -> None:
    parts = cut(NOTES, {0: [5], 2: [5, 7], 3: [8, 9, 10, 11]}, 4, singly=True)
    assert [[one.id for one in part.notes] for part in parts] == [
        ["e0", "e5"],
        ["e2", "e5", "e7"],
        ["e3", "e8", "e9", "e10"],
    ]
    assert all(list(part.sources) == [0] for part in parts)


def test_a_large_component_is_cut_between_targets() -> None:
    parts = cut(NOTES, {n: [n + 1] for n in range(9)}, 4)
    assert all(len(part.notes) <= 4 for part in parts)
    assert sum(part.num_pairs for part in parts) == 9


def test_a_target_with_too_many_sources_keeps_the_most_similar() -> None:
    (part,) = cut(NOTES, {0: [9, 8, 7, 6, 5]}, 4)
    assert [one.id for one in part.notes] == ["e0", "e7", "e8", "e9"]


pairs = st.dictionaries(
    st.integers(0, 9), st.lists(st.integers(10, 19), min_size=1, max_size=6, unique=True), max_size=10
)


@given(wanted=pairs, most=st.integers(2, 12))
def test_every_target_is_in_one_part_that_is_small_enough(wanted: dict[int, list[int]], most: int) -> None:
    parts = cut(NOTES, wanted, most)
    targets = [part.notes[target].id for part in parts for target in part.sources]
    assert sorted(targets) == sorted(f"e{target}" for target in wanted)
    for part in parts:
        assert len(part.notes) <= most
        times = [one.event_time for one in part.notes]
        assert times == sorted(times)
        assert all(source > target for target, sources in part.sources.items() for source in sources)

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.short_term.memory import due


@pytest.mark.parametrize(
    ("tokens", "threshold", "expected"),
    [
        ([], 512, 0),
        ([300], 512, 0),
        ([300, 200], 512, 0),
        ([300, 212], 512, 2),
        ([300, 213], 512, 1),
        ([900], 512, 1),
        ([900, 10], 512, 1),
        ([10, 900], 512, 1),
        ([5], 0, 1),
        ([5, 5], 0, 1),
        ([0], 0, 1),
    ],
)
def test_a_batch_ends_before_the_segment_that_exceeds_the_threshold(
    tokens: list[int], threshold: int, expected: int
) -> None:
    assert due(tokens, threshold) == expected


@pytest.mark.parametrize("why", [{"idle": True}, {"flush": True}])
def test_idleness_and_flush_hand_over_the_rest(why: dict[str, bool]) -> None:
    assert due([], 512, **why) == 0
    assert due([300, 100], 512, **why) == 2
    assert due([300, 300], 512, **why) == 1  # and the rest at the next call


def reference(tokens: list[int], threshold: int) -> list[int]:
    """The published buffer: on each segment, hand over what waits if the new one would exceed the threshold."""
    batches, count, total = [], 0, 0
    for n in tokens:
        if count and total + n > threshold:
            batches.append(count)
            count = total = 0
        count, total = count + 1, total + n
    return batches + ([count] if count else [])


@given(st.lists(st.integers(1, 700), max_size=30), st.sampled_from([0, 256, 512, 768]))
def test_batches_are_those_of_the_published_buffer_however_segments_arrive(tokens: list[int], threshold: int) -> None:
    batches: list[int] = []
    waiting: list[int] = []
    for n in tokens:  # one by one, drained after each
        waiting.append(n)
        while count := due(waiting, threshold):
            batches.append(count)
            del waiting[:count]
    while count := due(waiting, threshold, flush=True):
        batches.append(count)
        del waiting[:count]
    assert batches == reference(tokens, threshold)

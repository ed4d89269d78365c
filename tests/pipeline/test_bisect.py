"""A failing batch is split until only the poison is left."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightmem_engine.errors import BackendUnavailable, InvalidInput
from lightmem_engine.pipeline.bisect import Poison, Retry, run_bisecting


async def _no_sleep(seconds: float) -> None:
    assert 0 < seconds <= 60


def _retry(max_attempts: int = 3) -> Retry:
    return Retry(max_attempts, 0.5, sleep=_no_sleep)


@given(st.lists(st.booleans(), max_size=40))
async def test_only_the_poison_is_given_up(poisonous: list[bool]) -> None:
    async def work(items: Sequence[int]) -> list[int]:
        if any(poisonous[item] for item in items):
            raise ValueError("bad item")
        return [item * 2 for item in items]

    results = await run_bisecting(range(len(poisonous)), work, _retry())
    for item, result in enumerate(results):
        if poisonous[item]:
            assert result == Poison("ValueError: bad item", 3)
        else:
            assert result == item * 2


async def test_an_unreachable_backend_is_waited_for_and_parks_nothing() -> None:
    heard: list[Exception] = []
    failures = 10

    async def work(items: Sequence[int]) -> list[int]:
        nonlocal failures
        if failures:
            failures -= 1
            raise BackendUnavailable("down")
        return list(items)

    retry = Retry(1, 0.5, on_wait=heard.append, sleep=_no_sleep)
    assert await run_bisecting([1, 2, 3], work, retry) == [1, 2, 3]
    assert len(heard) == 10


async def test_an_item_that_fails_now_and_then_gets_through() -> None:
    calls = 0

    async def work(items: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls < 3:
            raise InvalidInput("flaky")
        return list(items)

    assert await run_bisecting([7], work, _retry(3)) == [7]


async def test_pauses_grow_to_a_minute_and_no_further() -> None:
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)

    retry = Retry(3, 0.5, sleep=sleep)
    for attempt in (1, 2, 3, 8, 1000):
        await retry.pause(attempt)
    assert pauses == [0.5, 1.0, 2.0, 60.0, 60.0]


async def test_nothing_to_do_calls_nobody() -> None:
    async def work(items: Sequence[int]) -> list[int]:
        pytest.fail("called without items")

    assert await run_bisecting(list[int](), work, _retry()) == []

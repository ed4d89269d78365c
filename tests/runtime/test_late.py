"""Work that comes too late is left alone and ends in order."""

from __future__ import annotations

import asyncio

import pytest

from lightmem_engine.runtime.late import LateWork


async def _later(event: asyncio.Event, result: int) -> int:
    await event.wait()
    return result


async def test_in_time_it_is_a_plain_call() -> None:
    late, event = LateWork(), asyncio.Event()
    event.set()
    assert await late.within(_later(event, 3), 60) == 3
    assert await late.kept(_later(event, 4)) == 4

    async def fail() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await late.within(fail(), 60)
    await late.aclose()
    assert len(late) == 0


async def test_at_the_deadline_nobody_waits_even_for_work_that_cannot_stop_at_once() -> None:
    late, event = LateWork(), asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await event.wait()
            raise

    with pytest.raises(TimeoutError):
        await late.within(stubborn(), 0.01)
    assert len(late) == 1
    event.set()
    await late.aclose()
    assert len(late) == 0


async def test_a_failure_after_the_deadline_is_nobodys() -> None:
    late = LateWork()

    async def fail_late() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ValueError("too late") from None

    with pytest.raises(TimeoutError):
        await late.within(fail_late(), 0.01)
    await late.aclose()


async def test_a_caller_that_goes_away_takes_the_work_with_it_unless_it_is_kept() -> None:
    late, event = LateWork(), asyncio.Event()
    done: list[int] = []

    async def work(number: int) -> None:
        await event.wait()
        done.append(number)

    callers = [asyncio.ensure_future(late.within(work(1), 60)), asyncio.ensure_future(late.kept(work(2)))]
    await asyncio.sleep(0)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    event.set()
    await late.aclose()
    assert done == [2]

"""Background work steps aside for the foreground, and does not starve."""

from __future__ import annotations

import asyncio

from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.policy import Policy
from lightmem_engine.types import Priority


async def _hold(admission: Admission, priority: Priority, log: list[str], name: str, release: asyncio.Event) -> None:
    async with admission.admit(priority, 100, "default"):
        log.append(name)
        await release.wait()


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_background_waits_for_the_foreground() -> None:
    admission, log, release = Admission(Policy(max_background=2)), list[str](), asyncio.Event()
    with admission.foreground():
        task = asyncio.create_task(_hold(admission, Priority.INGEST, log, "ingest", release))
        await _settle()
        assert log == []
        assert admission.num_waiting == 1
    await _settle()
    assert log == ["ingest"]
    release.set()
    await task


async def test_at_most_so_many_background_calls_and_the_higher_class_first() -> None:
    admission, log, release = Admission(Policy(max_background=1)), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(_hold(admission, Priority.SLEEP, log, "first", release))]
    await _settle()
    tasks.append(asyncio.create_task(_hold(admission, Priority.SLEEP, log, "sleep", release)))
    await _settle()
    tasks.append(asyncio.create_task(_hold(admission, Priority.INGEST, log, "ingest", release)))
    await _settle()
    assert log == ["first"]
    release.set()
    await asyncio.gather(*tasks)
    assert log == ["first", "ingest", "sleep"]


async def test_nothing_starves_beside_an_endless_foreground() -> None:
    admission, log, release = Admission(Policy(max_background=1, max_wait=0.01)), list[str](), asyncio.Event()
    release.set()
    with admission.foreground():
        await asyncio.wait_for(_hold(admission, Priority.SLEEP, log, "sleep", release), 30)
        async with admission.admit(Priority.SLEEP, 100, "default") as at:
            assert at is Priority.AGED
    assert log == ["sleep"]


async def test_a_cancelled_waiter_gives_its_place_back() -> None:
    admission, log, release = Admission(Policy(max_background=1)), list[str](), asyncio.Event()
    first = asyncio.create_task(_hold(admission, Priority.INGEST, log, "first", release))
    await _settle()
    gone = asyncio.create_task(_hold(admission, Priority.INGEST, log, "gone", release))
    await _settle()
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    last = asyncio.create_task(_hold(admission, Priority.INGEST, log, "last", release))
    release.set()
    await asyncio.gather(first, last)
    assert log == ["first", "last"]
    assert admission.num_waiting == 0


async def test_foreground_is_admitted_at_once_and_counted() -> None:
    admission = Admission(Policy(max_background=1))
    async with admission.admit(Priority.FOREGROUND, 1, "default"):
        assert admission.num_foreground == 1
    assert admission.num_foreground == 0

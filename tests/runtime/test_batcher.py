"""The device worker: order of urgency, budgets, failures, cancellation."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lightmem_engine.errors import InvalidInput, ModelError, Overloaded
from lightmem_engine.runtime.batcher import DeviceWorker
from lightmem_engine.runtime.courtesy import Slice
from lightmem_engine.types import Priority


class Gate:
    """A lane that records its batches and waits while it is shut."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.open = threading.Event()
        self.entered = threading.Event()

    def __call__(self, items: list[Any]) -> list[Any]:
        self.batches.append(items)
        self.entered.set()
        assert self.open.wait(10)
        return [item * 10 for item in items]


@pytest.fixture
async def worker() -> AsyncIterator[DeviceWorker]:
    worker = DeviceWorker(batch_tokens=100, max_queued_tokens=1000)
    yield worker
    await asyncio.to_thread(worker.close)


async def _busy(worker: DeviceWorker, gate: Gate) -> asyncio.Task[list[Any]]:
    """Occupy the device with one item until the gate opens."""
    worker.add_lane("gate", gate)
    task = asyncio.create_task(worker.run("gate", [0], [1], Priority.FOREGROUND))
    await asyncio.to_thread(gate.entered.wait, 10)
    return task


async def test_results_come_back_in_order(worker: DeviceWorker) -> None:
    worker.add_lane("square", lambda items: [item * item for item in items])
    assert await worker.run("square", range(50), [7] * 50, Priority.INGEST) == [n * n for n in range(50)]


async def test_foreground_overtakes_background_that_came_first(worker: DeviceWorker) -> None:
    gate = Gate()
    first = await _busy(worker, gate)
    background = asyncio.create_task(worker.run("gate", [1, 2], [10, 10], Priority.SLEEP))
    await asyncio.sleep(0)
    foreground = asyncio.create_task(worker.run("gate", [3], [10], Priority.FOREGROUND))
    await asyncio.sleep(0)
    gate.open.set()
    assert await foreground == [30]
    assert await background == [10, 20]
    await first
    assert gate.batches == [[0], [3], [1, 2]]


async def test_background_batches_take_a_quarter_of_the_budget(worker: DeviceWorker) -> None:
    gate = Gate()
    first = await _busy(worker, gate)
    background = asyncio.create_task(worker.run("gate", [1, 2, 3], [12, 12, 12], Priority.INGEST))
    foreground = asyncio.create_task(worker.run("gate", [4, 5, 6], [40, 40, 40], Priority.FOREGROUND))
    await asyncio.sleep(0)
    gate.open.set()
    await asyncio.gather(first, background, foreground)
    assert gate.batches == [[0], [4, 5], [6], [1, 2], [3]]


async def test_callers_of_one_lane_share_a_batch(worker: DeviceWorker) -> None:
    gate = Gate()
    first = await _busy(worker, gate)
    callers = [asyncio.create_task(worker.run("gate", [n], [5], Priority.INGEST)) for n in (1, 2, 3)]
    await asyncio.sleep(0)
    gate.open.set()
    assert await asyncio.gather(*callers) == [[10], [20], [30]]
    await first
    assert gate.batches[1] == [1, 2, 3]


async def test_a_failure_reaches_every_caller_of_the_batch_and_nobody_else(worker: DeviceWorker) -> None:
    def fail(items: list[Any]) -> list[Any]:
        raise RuntimeError("no such kernel")

    worker.add_lane("bad", fail)
    worker.add_lane("good", lambda items: items)
    bad = [worker.run("bad", [n], [1], Priority.INGEST) for n in range(3)]
    good = worker.run("good", [1], [1], Priority.INGEST)
    *failures, fine = await asyncio.gather(*bad, good, return_exceptions=True)
    assert fine == [1]
    for failure in failures:
        assert isinstance(failure, ModelError)
        assert "no such kernel" in str(failure)
        assert isinstance(failure.__cause__, RuntimeError)


async def test_a_typed_error_passes_through(worker: DeviceWorker) -> None:
    def refuse(items: list[Any]) -> list[Any]:
        raise InvalidInput("window too long")

    worker.add_lane("strict", refuse)
    with pytest.raises(InvalidInput, match="too long"):
        await worker.run("strict", [1], [1], Priority.INGEST)


async def test_a_lane_that_loses_an_item_fails_its_callers_and_works_on(worker: DeviceWorker) -> None:
    worker.add_lane("short", lambda items: items[1:])
    with pytest.raises(ModelError, match="1 results for 2 items"):
        await worker.run("short", [1, 2], [1, 1], Priority.INGEST)
    worker.add_lane("good", lambda items: items)
    assert await asyncio.wait_for(worker.run("good", [1], [1], Priority.INGEST), 10) == [1]


async def test_items_of_a_caller_that_went_away_are_dropped(worker: DeviceWorker) -> None:
    gate = Gate()
    first = await _busy(worker, gate)
    gone = asyncio.create_task(worker.run("gate", [1], [5], Priority.INGEST))
    stays = asyncio.create_task(worker.run("gate", [2], [5], Priority.INGEST))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    gate.open.set()
    assert await stays == [20]
    await first
    assert gate.batches == [[0], [2]]


async def test_a_full_queue_refuses_at_once(worker: DeviceWorker) -> None:
    gate = Gate()
    first = await _busy(worker, gate)
    waiting = asyncio.create_task(worker.run("gate", [1], [900], Priority.INGEST))
    await asyncio.sleep(0)
    with pytest.raises(Overloaded):
        await worker.run("gate", [2], [200], Priority.FOREGROUND)
    gate.open.set()
    await asyncio.gather(first, waiting)


async def test_closing_fails_what_waits() -> None:
    worker = DeviceWorker(batch_tokens=10, max_queued_tokens=1000)
    gate = Gate()
    first = await _busy(worker, gate)
    waiting = asyncio.create_task(worker.run("gate", [1], [5], Priority.INGEST))
    await asyncio.sleep(0)
    closing = asyncio.create_task(asyncio.to_thread(worker.close))
    while not worker._closed:
        await asyncio.sleep(0.001)
    gate.open.set()
    await closing
    assert await first == [0]
    with pytest.raises(Overloaded):
        await waiting
    with pytest.raises(Overloaded):
        await worker.run("gate", [1], [1], Priority.INGEST)


async def test_an_item_beyond_the_budget_runs_alone(worker: DeviceWorker) -> None:
    gate = Gate()
    gate.open.set()
    worker.add_lane("gate", gate)
    assert await worker.run("gate", [1, 2], [500, 1], Priority.FOREGROUND) == [10, 20]
    assert gate.batches == [[1], [2]]


async def test_the_device_is_tidied_between_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightmem_engine.runtime.batcher.TIDY_SECONDS", 0.0)
    tidied: list[str] = []
    worker = DeviceWorker(100, 1000, tidy=lambda: tidied.append(threading.current_thread().name))
    worker.add_lane("echo", lambda items: items)
    for _ in range(3):
        await worker.run("echo", [1], [1], Priority.INGEST)
    await asyncio.to_thread(worker.close)
    assert tidied == ["lightmem-device"] * 3


async def test_beside_a_model_server_background_waits_for_chats_and_then_goes_in_slices() -> None:
    worker, gate = DeviceWorker(100, 1000, slice=Slice(1e-9, 0)), Gate()
    gate.open.set()
    worker.add_lane("gate", gate)
    worker.users(1)
    background = asyncio.create_task(worker.run("gate", [1, 2, 3], [5, 5, 5], Priority.INGEST))
    assert await worker.run("gate", [4, 5], [5, 5], Priority.FOREGROUND) == [40, 50]
    assert gate.batches == [[4, 5]], "a user's own items go as ever"
    worker.users(0)
    assert await background == [10, 20, 30]
    assert gate.batches == [[4, 5], [1], [2], [3]], "of so short a slice there is always one item"
    await asyncio.to_thread(worker.close)


async def test_background_does_not_starve_beside_endless_chats(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightmem_engine.runtime.courtesy.PATIENCE_SECONDS", 0.01)
    worker = DeviceWorker(100, 1000, slice=Slice(1.0, 0))
    worker.add_lane("echo", lambda items: items)
    worker.users(3)
    try:
        for priority in (Priority.INGEST, Priority.SLEEP):
            assert await asyncio.wait_for(worker.run("echo", [1], [5], priority), 10) == [1]
    finally:
        await asyncio.to_thread(worker.close)

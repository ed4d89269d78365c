"""Background calls give way to users, ask again, and all of them end, whatever comes when."""

from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmem_engine.runtime.admission import Admission
from lightmem_engine.runtime.policy import Load, Policy
from lightmem_engine.types import Priority

QUICK = Policy(2, max_wait=30.0, preempts=True, first_pause=0.001, longest_pause=0.002)


async def _settle() -> None:
    for _ in range(8):
        await asyncio.sleep(0)


class Model:
    """Calls that end when they are told to, and counts of them."""

    def __init__(self) -> None:
        self.begun = self.ended = self.cancelled = self.running = self.most = 0
        self.classes: list[Priority] = []
        self.go = asyncio.Event()

    async def call(self, at: Priority) -> str:
        self.classes.append(at)
        self.begun += 1
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        self.ended += 1
        return "done"


async def test_a_call_in_flight_gives_way_and_begins_anew() -> None:
    admission, model = Admission(QUICK), Model()
    task = asyncio.create_task(admission.run(Priority.SLEEP, 1, "t", model.call))
    await _settle()
    assert model.running == 1
    with admission.foreground():
        await _settle()
        assert (model.running, model.cancelled) == (0, 1)
        await asyncio.sleep(0.01)
        assert model.begun == 1
    model.go.set()
    assert await asyncio.wait_for(task, 30) == "done"
    assert model.begun == 2
    assert admission.counts == {"admitted": 2, "gave_way": 1, "aged": 0}


async def test_where_the_server_pauses_calls_stay_until_the_cache_is_full() -> None:
    admission, model = Admission(Policy(2, preempts=True, pauses=True, first_pause=0.001)), Model()
    with admission.foreground():
        task = asyncio.create_task(admission.run(Priority.SLEEP, 1, "t", model.call))
        await _settle()
        assert model.running == 0, "what has not begun does not begin beside a user: the server would have to read it"
    await _settle()
    with admission.foreground():
        await _settle()
        assert (model.running, model.cancelled) == (1, 0)
        admission.heard(Load(running=9, waiting=9, kv_usage=0.5))
        await _settle()
        assert model.running == 1
        admission.heard(Load(running=9, waiting=9, kv_usage=0.95))
        await _settle()
        assert (model.running, model.cancelled) == (0, 1)
        admission.heard(Load(running=9, waiting=9, kv_usage=0.5))
    model.go.set()
    assert await asyncio.wait_for(task, 30) == "done"


async def test_a_search_is_no_reason_to_give_way() -> None:
    admission, model = Admission(QUICK), Model()
    task = asyncio.create_task(admission.run(Priority.SLEEP, 1, "t", model.call))
    await _settle()
    with admission.foreground(brief=True):
        await _settle()
        assert model.running == 1
    model.go.set()
    await task
    assert model.cancelled == 0


async def test_a_call_of_age_runs_beside_an_endless_foreground_and_stays() -> None:
    admission, model = Admission(Policy(2, max_wait=0.01, preempts=True)), Model()
    with admission.foreground():
        tasks = [asyncio.create_task(admission.run(Priority.SLEEP, 1, "t", model.call)) for _ in range(3)]
        while not model.running:
            await asyncio.sleep(0.002)
        with admission.foreground():
            await asyncio.sleep(0.03)
            assert (model.running, model.cancelled) == (1, 0)  # one at a time, and it stays
        model.go.set()
        await asyncio.wait_for(asyncio.gather(*tasks), 30)
    assert model.most == 1
    assert model.classes == [Priority.AGED] * 3, "the server is told, or it would let them wait once more"


async def test_a_call_that_nobody_delays_runs_at_its_own_class() -> None:
    admission, model = Admission(QUICK), Model()
    model.go.set()
    await admission.run(Priority.INGEST, 1, "t", model.call)
    await admission.run(Priority.SLEEP, 1, "t", model.call)
    async with admission.admit(Priority.SLEEP, 1, "t") as at:
        assert [*model.classes, at] == [Priority.INGEST, Priority.SLEEP, Priority.SLEEP]


async def test_a_caller_that_leaves_takes_its_call_along() -> None:
    admission, model = Admission(QUICK), Model()
    task = asyncio.create_task(admission.run(Priority.SLEEP, 1, "t", model.call))
    await _settle()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (model.cancelled, admission.num_background, admission.num_waiting) == (1, 0, 0)


async def test_a_call_that_fails_is_not_begun_anew() -> None:
    admission, calls = Admission(QUICK), 0

    async def fail(at: Priority) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        await admission.run(Priority.SLEEP, 1, "t", fail)
    assert (calls, admission.num_background) == (1, 0)


async def test_other_peoples_requests_on_the_server_count_like_ours() -> None:
    admission, model = Admission(QUICK), Model()
    admission.heard(Load(running=3, waiting=0, kv_usage=0.1))
    task = asyncio.create_task(admission.run(Priority.SLEEP, 1, "t", model.call))
    await _settle()
    assert model.running == 0
    admission.heard(Load(running=0, waiting=0, kv_usage=0.1))
    await _settle()
    assert model.running == 1
    admission.heard(Load(running=1, waiting=0, kv_usage=0.1))  # our own
    await _settle()
    assert model.running == 1
    admission.heard(Load(running=2, waiting=1, kv_usage=0.1))
    await _settle()
    assert (model.running, model.cancelled) == (0, 1)
    admission.heard(None)  # the server says nothing any more: our own count decides
    model.go.set()
    assert await asyncio.wait_for(task, 30) == "done"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 4), st.integers(0, 3), st.booleans())
async def test_whatever_comes_when_all_calls_end_and_bounds_hold(
    seed: int, most: int, reserved: int, preempts: bool
) -> None:
    random_ = random.Random(seed)
    policy = Policy(
        most, max_wait=0.02, preempts=preempts, slots=6, reserved=reserved, first_pause=0.0005, longest_pause=0.002
    )
    admission = Admission(policy)
    running = most_running = 0

    async def call(at: Priority) -> int:
        nonlocal running, most_running
        running += 1
        most_running = max(most_running, running)
        try:
            await asyncio.sleep(random_.uniform(0, 0.003))
        finally:
            running -= 1
        return 1

    async def user() -> None:
        await asyncio.sleep(random_.uniform(0, 0.03))
        with admission.foreground(brief=random_.random() < 0.2):
            await asyncio.sleep(random_.uniform(0, 0.01))

    async def leaver() -> None:
        work = asyncio.ensure_future(admission.run(Priority.SLEEP, 1, "t", call))
        await asyncio.sleep(random_.uniform(0, 0.01))
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)

    calls = [admission.run(random_.choice([Priority.INGEST, Priority.SLEEP]), 1, "t", call) for _ in range(12)]
    others = [user() for _ in range(10)] + [leaver() for _ in range(4)]
    results = await asyncio.wait_for(asyncio.gather(*calls, *others), 30)
    assert results[: len(calls)] == [1] * len(calls)
    assert most_running <= policy.ceiling
    assert (admission.num_background, admission.num_waiting, admission.num_foreground) == (0, 0, 0)

"""What stands still and what moves in a step, over a scheduler that keeps vLLM's books and computes nothing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightmem_engine.runtime.flag import NAME, ForegroundFlag
from lightmem_engine.vllm_plugin.scheduling import pausing
from lightmem_engine.vllm_plugin.scheduling.hold import AGE_SECONDS, OVERDUE_SECONDS
from lightmem_engine.vllm_plugin.scheduling.pausing import STUCK_STEPS, Pausing
from lightmem_engine.vllm_plugin.settings import PluginSettings


@dataclass(eq=False)
class Request:
    """What is read of a request of vLLM's."""

    request_id: str
    priority: int
    num_tokens: int = 600
    num_computed_tokens: int = 0
    arrival_time: float = field(default_factory=time.time)


class Queue(list[Request]):
    """A queue of vLLM's."""

    def add_request(self, request: Request) -> None:
        self.append(request)

    def remove_requests(self, requests: list[Request]) -> None:
        self[:] = [request for request in self if request not in requests]


class Books:
    """Running requests first, in their order, then those that wait, as far as tokens and places reach."""

    def __init__(self, places: int = 8, tokens: int = 2048) -> None:
        self.running: list[Request] = []
        self.waiting, self.skipped_waiting, self.kv_holding_waiting = Queue(), Queue(), Queue()
        self.max_num_running_reqs = self.max_num_active_reqs = places
        self.max_num_scheduled_tokens = tokens
        self.kv_cache_manager = SimpleNamespace(usage=0.0)
        self.cannot_move: set[str] = set()

    def schedule(self) -> Any:
        left, moved = self.max_num_scheduled_tokens, {}
        for queue in (self.kv_holding_waiting, self.skipped_waiting, self.waiting):
            while (
                queue and len(self.running) < self.max_num_active_reqs and queue[0].request_id not in self.cannot_move
            ):
                self.running.append(queue.pop(0))
        assert len(self.running) <= self.max_num_running_reqs
        for request in self.running:
            tokens = min(left, max(1, request.num_tokens - request.num_computed_tokens))
            if tokens and request.request_id not in self.cannot_move:
                moved[request.request_id] = tokens
                request.num_computed_tokens += tokens
                request.num_tokens = max(request.num_tokens, request.num_computed_tokens)
                left -= tokens
        return SimpleNamespace(moved=moved, total_num_scheduled_tokens=sum(moved.values()))


class Scheduler(Pausing, Books):
    """Ours over these books."""

    slice_tokens = 32


def everybody(scheduler: Scheduler) -> set[str]:
    return {request.request_id for group in (scheduler.running, *scheduler._queues()) for request in group}


def test_background_work_alone_moves_in_slices_and_stands_still_while_a_chat_does_not() -> None:
    scheduler = Scheduler()
    scheduler.waiting += [Request("b1", 10), Request("b2", 10)]
    assert scheduler.schedule().moved == {"b1": 32}
    scheduler.waiting.append(Request("c", 0))
    assert scheduler.schedule().moved == {"c": 600}
    assert scheduler.schedule().moved == {"c": 1}
    scheduler.running = [request for request in scheduler.running if request.request_id != "c"]
    assert scheduler.schedule().moved == {"b1": 32}
    assert scheduler.max_num_scheduled_tokens == 2048


@pytest.mark.parametrize("queue", ["waiting", "skipped_waiting", "kv_holding_waiting"])
def test_it_stands_still_in_whichever_queue_it_waits(queue: str) -> None:
    scheduler = Scheduler()
    getattr(scheduler, queue).append(Request("b", 10))
    scheduler.waiting.append(Request("c", 0))
    assert set(scheduler.schedule().moved) == {"c"}
    assert [request.request_id for request in getattr(scheduler, queue)] == ["b"]


def test_those_that_stand_still_keep_their_places() -> None:
    scheduler = Scheduler(places=4)
    scheduler.running = [Request(f"b{number}", 10) for number in range(3)]
    scheduler.waiting += [Request(f"c{number}", 0) for number in range(3)]
    assert scheduler.schedule().moved == {"c0": 600}
    assert {*everybody(scheduler)} == {"b0", "b1", "b2", "c0", "c1", "c2"}
    assert scheduler.max_num_running_reqs == scheduler.max_num_active_reqs == 4


def test_it_stands_still_while_a_chat_is_on_its_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment: dict[str, str] = {}
    PluginSettings(str(tmp_path / "engine.sock"), "").publish(environment)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with ForegroundFlag(tmp_path / NAME, is_writer=True) as flag:
        scheduler = Scheduler()
        scheduler.waiting.append(Request("b", 10))
        flag.set(1)
        assert not scheduler.schedule().moved
        flag.set(0)
        assert scheduler.schedule().moved == {"b": 32}


def test_what_is_of_age_rides_in_slices_beside_chats_that_write_and_overdue_beside_any() -> None:
    scheduler = Scheduler()
    now = time.time()
    old = Request("b1", 10, arrival_time=now - AGE_SECONDS - 1)
    scheduler.running = [old]
    scheduler.waiting += [Request("b2", 10, arrival_time=now - AGE_SECONDS - 0.5), Request("c", 0)]
    assert scheduler.schedule().moved == {"c": 600}, "a chat that begins has the step for itself"
    assert scheduler.schedule().moved == {"c": 1, "b1": 32}, "then the oldest rides along, and no other"
    scheduler.waiting.append(Request("d", 0))
    assert set(scheduler.schedule().moved) == {"c", "d"}
    old.arrival_time = now - OVERDUE_SECONDS - 1
    scheduler.waiting.append(Request("e", 0))
    assert scheduler.schedule().moved == {"c": 1, "d": 1, "b1": 32}, "overdue, it has every other step"
    assert scheduler.schedule().moved == {"c": 1, "d": 1, "e": 600}


def test_chats_that_cannot_move_lock_nothing_and_a_few_empty_steps_are_no_reason() -> None:
    scheduler = Scheduler()
    scheduler.running = [Request("b", 10), Request("c", 0)]
    scheduler.cannot_move = {"c"}
    assert [scheduler.schedule().moved for _ in range(STUCK_STEPS)] == [{}] * STUCK_STEPS
    assert scheduler.schedule().moved == {"b": 32}
    assert not scheduler.schedule().moved


def test_scarce_blocks_are_shared_by_vllm_s_own_rules() -> None:
    scheduler = Scheduler()
    scheduler.running = [Request("b", 10), Request("c", 0)]
    scheduler.kv_cache_manager.usage = pausing.SCARCE + 0.01
    assert scheduler.schedule().moved == {"b": 600, "c": 600}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([0, 5, 10]), st.integers(1, 900), st.integers(0, 90)), max_size=12))
def test_nobody_is_lost_and_everybody_ends(requests: list[tuple[int, int, int]]) -> None:
    scheduler = Scheduler(places=5, tokens=300)
    now = time.time()
    for number, (priority, tokens, age) in enumerate(requests):
        queue = scheduler._queues()[number % 3]
        queue.append(Request(str(number), priority, tokens, arrival_time=now - age))
    all_, done = everybody(scheduler), set[str]()
    for _ in range(4000):
        if not everybody(scheduler):
            break
        scheduler.schedule()
        for request in [request for request in scheduler.running if request.num_computed_tokens >= request.num_tokens]:
            scheduler.running.remove(request)
            done.add(request.request_id)
        assert everybody(scheduler) | done == all_
    assert done == all_

"""What a scheduler of vLLM's does with background requests while somebody chats; without vLLM, so that it can be tried.

A background request (priority above 0) is left out of every step while a chat is in the engine, or anywhere between
its arrival and its end, as the owner's flag says. It keeps its KV blocks and its place, so nothing of it is done twice.
Steps of background work alone are cut short, so that a chat that comes waits for a small one. Nothing starves: what is
of age (`hold`) rides along in slices, beside chats that already write, and when it is overdue those that begin wait for
every other step. And nothing locks: while blocks are scarce, or after some steps in which no chat could move,
background work moves, too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightmem_engine.runtime.flag import NAME, ForegroundFlag
from lightmem_engine.vllm_plugin.scheduling.hold import to_hold
from lightmem_engine.vllm_plugin.settings import VARIABLE, received

SCARCE = 0.9  # share of KV blocks in use
STUCK_STEPS = 3  # a scheduler that plans ahead has steps without tokens of its own
STILL_SECONDS = 0.001  # between looks at the flag while nothing may move
# What waits for a grammar or for KV may have a queue of its own, and so may what waits and holds blocks.
QUEUES = ("waiting", "skipped_waiting", "kv_holding_waiting")
LIMITS = ("max_num_running_reqs", "max_num_active_reqs")  # of requests that run; the second is newer


class Pausing:
    """Mixed into a scheduler of vLLM's. slice_tokens: at most, of background work, in a step."""

    slice_tokens = 512
    running: list[Any]
    kv_cache_manager: Any
    max_num_scheduled_tokens: int

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._num_stuck = 0
        self._is_its_turn = False
        told = VARIABLE in os.environ
        self._flag = ForegroundFlag(Path(received().socket).parent / NAME) if told else None

    def schedule(self, *args: Any, **options: Any) -> Any:
        """One step."""

        def plan() -> Any:
            return super(Pausing, self).schedule(*args, **options)  # type: ignore[misc]

        waiting = [request for queue in self._queues() for request in queue]
        everybody = [*self.running, *waiting]
        chats = [request for request in everybody if request.priority <= 0]
        if len(chats) == len(everybody):
            return plan()
        if self._num_stuck >= STUCK_STEPS:
            self._num_stuck = 0
            return self._planned(plan, self.slice_tokens)
        if self.kv_cache_manager.usage > SCARCE:
            return plan() if chats else self._planned(plan, self.slice_tokens)
        users_wait = self._flag is not None and self._flag.read() > 0
        begin = [request for request in waiting if request.priority <= 0]
        held = to_hold(everybody, time.time(), users_wait=users_wait, chats_begin=bool(begin))
        rides = len(held) + len(chats) < len(everybody)
        if rides and begin:  # what rides is overdue, and would take what is left of a step before those that begin
            self._is_its_turn = not self._is_its_turn
            rides = self._is_its_turn
            held = [*held, *begin] if rides else [request for request in everybody if request.priority > 0]
        ids = {request.request_id for request in held}
        with self._without(ids):
            if rides:
                to_come = sum(_to_come(request) for request in self.running if request.priority <= 0)
                output = self._planned(plan, self.slice_tokens + to_come)
            else:
                output = plan()
        moved = output.total_num_scheduled_tokens
        self._num_stuck = self._num_stuck + 1 if chats and not moved else 0
        if len(held) == len(everybody):
            time.sleep(STILL_SECONDS)
        return output

    def _queues(self) -> list[Any]:
        """Of those that wait; this vLLM need not have them all."""
        return [getattr(self, name) for name in QUEUES if hasattr(self, name)]

    @contextmanager
    def _without(self, ids: set[str]) -> Iterator[None]:
        """These requests are not there."""
        if not ids:
            yield
            return
        running = [request for request in self.running if request.request_id in ids]
        self.running = [request for request in self.running if request.request_id not in ids]
        taken = [(queue, [request for request in queue if request.request_id in ids]) for queue in self._queues()]
        for queue, requests in taken:
            if requests:
                queue.remove_requests(requests)
        # Those that stand still hold their places, or they would be too many when they go on.
        limits = {name: getattr(self, name) for name in LIMITS if hasattr(self, name)}
        for name, limit in limits.items():
            setattr(self, name, limit - len(running))
        try:
            yield
        finally:
            for name, limit in limits.items():
                setattr(self, name, limit)
            self.running = [*self.running, *running]
            for queue, requests in taken:
                for request in requests:
                    queue.add_request(request)

    def _planned(self, plan: Callable[[], Any], tokens: int) -> Any:
        """A step of at most so many tokens, in which chats come first."""
        whole = self.max_num_scheduled_tokens
        self.max_num_scheduled_tokens = min(whole, tokens)
        self.running = sorted(self.running, key=lambda request: request.priority > 0)
        try:
            return plan()
        finally:
            self.max_num_scheduled_tokens = whole


def _to_come(request: Any) -> int:
    """Tokens that a running request has a step's place for; one at least."""
    return max(1, int(request.num_tokens) - int(request.num_computed_tokens))
